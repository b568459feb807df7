"""From envoyproxy/ratelimit to here: what will differ for one user, and the configuration that goes on from theirs.

Their files are read and stay where they are: every one of them loads unchanged. Secrets do not move: where the
environment holds a password, the configuration names a file for it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from genops_extauth.differences import differences
from genops_extauth.environment import Overlay
from genops_extauth.plain_yaml import written
from genops_extauth.problems import ConfigError, Problem
from genops_extauth.ratelimit_environment import placed, ratelimit_overlay, ratelimit_warnings
from genops_extauth.ratelimit_files import Loaded, read_directory
from genops_extauth.ratelimit_variables import VARIABLES
from genops_extauth.strict_yaml import Plain, Step
from genops_extauth.variables import read

_HEADER: Final = """\
# genops-extauth in place of envoyproxy/ratelimit: its environment as a file, by `genops-extauth migrate ratelimit`.
# Limits stay in files of their own, in rate_limits.directory. At the end of a line is the variable it comes from.
#
#   genops-extauth check-config -c FILE    tells everything that is wrong with this file, and what it means
#   genops-extauth serve -c FILE           serves as it says
"""
_REMARKS: Final[dict[tuple[Step, ...], str]] = {
    ("rate_limits", "directory"): "every file in it loads unchanged",
    ("server", "services"): "no identity is asked for; add identity where it is to be",
    ("server", "json_limits"): "/json and /healthcheck on the HTTP port",
    ("rate_limits", "retry_after"): "true adds Retry-After to a refusal",
    ("rate_limits", "body"): "json gives refusals a body that says what was exceeded",
}
_FILES: Final = {
    "store.password": "redis-password",
    "store.sentinel_password": "sentinel-password",
    "store.per_second.password": "redis-per-second-password",
}
"""The files that passwords go into, beside the configuration."""

_OUTAGE: Final = (
    "while the store cannot be reached, each process admits store.outage.allowance of each limit, and then does what "
    "store.outage.then says; there every request was an error, which Envoy lets pass unless it has failure_mode_deny"
)
_NEW_KEYS: Final = (
    "no key of envoyproxy/ratelimit's is read or changed: every limit starts full here, and the old keys expire"
)
_LEFT_OVER: Final = (
    "REDIS_URL and LOG_LEVEL win over the file where `serve` finds them: remove envoyproxy/ratelimit's variables"
)
_NO_XDS: Final = (
    "CONFIG_TYPE says that limits come over xDS, and this configuration reads them from the directory: write "
    "rate_limits.xds in its place to go on asking the management server"
)


@dataclass(frozen=True, slots=True)
class Migration:
    """A configuration for `serve`, and what will differ. Where there are `problems`, it is not whole, or not right."""

    config_yaml: str
    differences: tuple[str, ...]
    problems: tuple[Problem, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """What to print of the differences. Files can hold what a terminal would obey; it is escaped."""
        return ("what will differ:", *(f"- {_printable(line)}" for line in self.differences))


def migrate(directory: Path, environ: Mapping[str, str]) -> Migration:
    """Look at a directory of envoyproxy/ratelimit's files, and at the environment that it runs in."""
    laid = ratelimit_overlay(environ)
    reading = read(VARIABLES, environ)
    problems = [Problem(f"env {variable}", message) for variable, message in laid.complaints]
    try:
        loaded = read_directory(directory, merge_domains=reading.on("MERGE_DOMAIN_CONFIG"))
    except ConfigError as error:
        loaded = Loaded(())
        problems += error.problems
    told = (
        *differences(loaded.domains, stopped=reading.on("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT")),
        *map(str, loaded.warnings),
        *([] if reading.on("RUNTIME_IGNOREDOTFILES") else _hidden(directory)),
        *_around(laid),
        *ratelimit_warnings(environ),
    )
    return Migration(_written(laid, directory), told, tuple(problems))


def _rate_limits(laid: Overlay) -> Mapping[str, Plain]:
    section = laid.data["rate_limits"]
    return section if isinstance(section, dict) else {}


def _hidden(directory: Path) -> Iterator[str]:
    """Tell of files that upstream reads. Two dots are Kubernetes' own."""
    try:
        hidden = sorted(path.name for path in directory.iterdir() if re.match(r"\.[^.]", path.name))
    except OSError:
        return  # `read_directory` has said so.
    if hidden:
        yield f"{hidden[0]} is not read, nor is any other name that begins with a dot: rename what holds limits"


def _around(laid: Overlay) -> Iterator[str]:
    yield _OUTAGE
    store = laid.data["store"]
    if isinstance(store, dict) and store["url"] != "embedded:":
        yield _NEW_KEYS
    for setting, given in laid.passwords.items():
        yield f"write the password of {' or '.join(given)} into {_FILES[setting]}, beside the configuration"
    if "xds" in _rate_limits(laid):
        yield _NO_XDS
    if any(name in laid.environ for name in ("REDIS_URL", "LOG_LEVEL")):
        yield _LEFT_OVER


def _written(laid: Overlay, directory: Path) -> str:
    limits = {**_rate_limits(laid), "directory": str(directory.absolute())}
    limits.pop("xds", None)
    data = {**laid.data, "rate_limits": limits}
    remarks = laid.origins | _REMARKS
    for setting, given in laid.passwords.items():
        path = f"{setting}_file".split(".")
        data = placed(data, path, _FILES[setting])
        remarks[tuple(path)] = f"write into it the password of {' or '.join(given)}"
    return f"{_HEADER}\n{written(data, remarks)}"


def _printable(line: str) -> str:
    return line if line.isprintable() else line.encode("unicode_escape").decode()
