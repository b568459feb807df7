"""envoyproxy/ratelimit's environment in the shape of our configuration: what ``genops-extauth ratelimit`` runs by.

`ratelimit_variables` says what becomes of each variable. What envoyproxy/ratelimit does by itself, and we do not, is
`_STANCE`, so that its image can be swapped for ours.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from genops_extauth import notation, ratelimit_store
from genops_extauth.environment import Overlay
from genops_extauth.ratelimit_variables import VARIABLES, XDS
from genops_extauth.strict_yaml import Plain
from genops_extauth.variables import Reading, Variable, Verdict, read

_STANCE: Final[Mapping[str, Plain]] = {
    "server.services": ["rate_limits"],
    "server.json_limits": "true",
    "log.level": "warning",
    "log.format": "console",
    "store.url": "embedded:",
    "rate_limits.headers": "false",
    "rate_limits.header_names.limit": "RateLimit-Limit",
    "rate_limits.header_names.remaining": "RateLimit-Remaining",
    "rate_limits.header_names.reset": "RateLimit-Reset",
    "rate_limits.retry_after": "false",
    "rate_limits.body": "none",
}
_ADDRESSES: Final = (
    ("server.http", "HOST", "PORT"),
    ("server.debug", "DEBUG_HOST", "DEBUG_PORT"),
    ("server.grpc", "GRPC_HOST", "GRPC_PORT"),
)
_DIRECTORY: Final = ("RUNTIME_ROOT", "RUNTIME_SUBDIRECTORY", "RUNTIME_APPDIRECTORY")
_TLS: Final = {
    "server.tls.cert_file": ("GRPC_SERVER_TLS_CERT",),
    "server.tls.key_file": ("GRPC_SERVER_TLS_KEY",),
    "server.tls.client_ca_file": ("GRPC_CLIENT_TLS_CACERT", "GRPC_SERVER_TLS_CA_CERT"),
    "server.tls.client_names": ("GRPC_CLIENT_TLS_SAN",),
}
"""The parts of ``server.tls``, each with its variables: of several that are given the first counts."""
_COMPOSED: Final = frozenset(
    {
        *(setting for setting, _, _ in _ADDRESSES),
        "server.metrics",
        "server.tls",
        *_TLS,
        "rate_limits.directory",
        "rate_limits.xds",
        "store.url",
        "store.password",
        "store.sentinel_password",
        "store.timeout",
        "store.per_second",
        "store.per_second.url",
        "store.per_second.password",
    }
)
"""Settings that take more than one variable's value as it is."""

_STORES: Final = (("REDIS_", "store"), ("REDIS_PERSECOND_", "store.per_second"))
_LONGEST_WAIT: Final = "10s"  # that store.timeout may be
_ALONE: Final = (
    "REDIS_URL: is not set, so this process counts alone, and every replica admits as much again; "
    "set it to a Redis or Valkey that all of them share"
)


def ratelimit_overlay(environ: Mapping[str, str]) -> Overlay:
    """Read the environment as envoyproxy/ratelimit would. There is no file: the data is all that is configured."""
    reading = read(VARIABLES, environ)
    laid = Overlay({}, environ, complaints=reading.complaints)
    for setting, value in _STANCE.items():
        _put(laid, setting, value)
    _addresses(reading, laid)
    _tls(reading, laid)
    _source(reading, laid)
    for variable in VARIABLES.values():
        if variable.verdict is Verdict.SAME and _stands_alone(variable, reading):
            _put(laid, variable.setting, reading.values[variable.name], variable.name)
        elif variable.verdict is Verdict.REFUSED and reading.unusual(variable):
            laid.complaints.append((variable.name, variable.note))
    _store(reading, laid)
    return laid


def ratelimit_warnings(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What is missed here by who set these variables, each line beginning with their names."""
    reading = read(VARIABLES, environ)
    found: dict[str, list[str]] = {}
    for variable in VARIABLES.values():
        if variable.warning and reading.unusual(variable):
            found.setdefault(variable.warning, []).append(variable.name)
    if "REDIS_TIMEOUT" in reading.given and _timeout(reading) != reading.text("REDIS_TIMEOUT"):
        found[f"an answer of the store is waited for {_LONGEST_WAIT} at most"] = ["REDIS_TIMEOUT"]
    told = [f"{', '.join(names)}: {warning}" for warning, names in found.items()]
    return (*told, *([] if "REDIS_URL" in reading.given else [_ALONE]))


def _stands_alone(variable: Variable, reading: Reading) -> bool:
    """Whether a variable sets its setting, as it is."""
    given = reading.counts(variable) and bool(reading.values[variable.name])
    return given and variable.setting not in _COMPOSED and (variable not in XDS or _has_xds(reading))


def _has_xds(reading: Reading) -> bool:
    return reading.text("CONFIG_TYPE") == "GRPC_XDS_SOTW"


def _addresses(reading: Reading, laid: Overlay) -> None:
    for setting, host, port in _ADDRESSES:
        name = f"[{reading.text(host)}]" if ":" in reading.text(host) else reading.text(host)
        _put(laid, setting, f"{name}:{reading.text(port)}", _given(reading, port, host))
    if reading.text("GRPC_UDS"):
        _put(laid, "server.grpc", f"unix:{reading.text('GRPC_UDS')}", "GRPC_UDS")
    if reading.on("USE_PROMETHEUS"):
        name = _given(reading, "PROMETHEUS_ADDR") or "USE_PROMETHEUS"
        _put(laid, "server.metrics", reading.text("PROMETHEUS_ADDR"), name)


def _tls(reading: Reading, laid: Overlay) -> None:
    """TLS to the gateway: who asks for it without a certificate would otherwise be served without it."""
    if not reading.on("GRPC_SERVER_USE_TLS"):
        return
    lacking = [name for name in ("GRPC_SERVER_TLS_CERT", "GRPC_SERVER_TLS_KEY") if _given(reading, name) is None]
    laid.complaints += [
        (name, "is not set, and GRPC_SERVER_USE_TLS is: write the path of the file") for name in lacking
    ]
    if lacking:
        return
    for setting, names in _TLS.items():
        name = _given(reading, *names)
        if name is not None:
            _put(laid, setting, reading.values[name], name)


def _source(reading: Reading, laid: Overlay) -> None:
    """Where limits come from: a management server, or files."""
    if _has_xds(reading):
        _put(laid, "rate_limits.xds.server", reading.values["CONFIG_GRPC_XDS_SERVER_URL"], "CONFIG_TYPE")
        return
    root, *below = map(reading.text, _DIRECTORY)
    steps = [root.rstrip("/"), *(step.strip("/") for step in below if step.strip("/"))]
    _put(laid, "rate_limits.directory", "/".join(steps) or "/", _given(reading, *_DIRECTORY))


def _store(reading: Reading, laid: Overlay) -> None:
    if "REDIS_TIMEOUT" in reading.given:
        _put(laid, "store.timeout", _timeout(reading), "REDIS_TIMEOUT")
    if _without_url(reading, laid):
        return
    for start, place in _STORES[: 1 + reading.on("REDIS_PERSECOND")]:
        try:
            found = ratelimit_store.location(reading, start)
        except ValueError as error:
            laid.complaints.append((f"{start}URL", str(error)))
            continue
        _put(laid, f"{place}.url", found.url, f"{start}URL")
        if found.password is not None:
            laid.keep(f"{place}.password", _given(reading, f"{start}AUTH") or f"{start}URL", found.password)
        _sentinels(reading, laid, start)


def _without_url(reading: Reading, laid: Overlay) -> bool:
    """Complain of a store that is described, and is nowhere: to count in this process would admit far too much."""
    lacking = [start for start, _ in _STORES[: 1 + reading.on("REDIS_PERSECOND")] if f"{start}URL" not in reading.given]
    for start in lacking:
        described = [f"{start}{name}" for name in ("SOCKET_TYPE", "TYPE", "AUTH", "SENTINEL_AUTH", "TLS", "PERSECOND")]
        described += ["REDIS_PERSECOND"] if reading.on("REDIS_PERSECOND") else []
        reason = next((name for name in described if name in reading.given and reading.values[name] != "false"), None)
        if reason is not None and f"{start}URL" not in dict(laid.complaints):
            laid.complaints.append((f"{start}URL", f"is not set, and {reason} is: write HOST:PORT, or a socket's path"))
    return bool(lacking)


def _sentinels(reading: Reading, laid: Overlay, start: str) -> None:
    """Both stores' Sentinels have one password: it is theirs that the first store has."""
    name = f"{start}SENTINEL_AUTH"
    try:
        password = ratelimit_store.sentinel_password(reading, start)
    except ValueError as error:
        laid.complaints.append((name, str(error)))
        return
    if password is None:
        return
    if start == "REDIS_":
        laid.keep("store.sentinel_password", name, password)
    elif password != ratelimit_store.sentinel_password(reading, "REDIS_"):
        message = "all Sentinels have one password here: make it that of REDIS_SENTINEL_AUTH"
        laid.complaints.append((name, message))


def _timeout(reading: Reading) -> str:
    """Upstream bounds only how long it dials; 0 is without bound."""
    wanted = reading.text("REDIS_TIMEOUT")
    return wanted if 0 < notation.duration(wanted) <= notation.duration(_LONGEST_WAIT) else _LONGEST_WAIT


def _given(reading: Reading, *names: str) -> str | None:
    return next((name for name in names if name in reading.given and reading.values[name]), None)


def _put(laid: Overlay, setting: str, value: Plain, variable: str | None = None) -> None:
    path = setting.split(".")
    laid.data = placed(laid.data, path, value)
    if variable is not None:
        laid.origins[tuple(path)] = variable


def placed(data: Mapping[str, Plain], path: Sequence[str], value: Plain) -> dict[str, Plain]:
    """The data with a value at a path."""
    first, *rest = path
    held = data.get(first)
    return {**data, first: placed(held if isinstance(held, dict) else {}, rest, value) if rest else value}
