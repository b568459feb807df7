"""Environment variables laid over the configuration file, in the file's own shape.

=================  ============================  =================================================================
JWT_PUBLIC_KEY     ``identity.jwt[].keys``       with the next two: only where the file has no ``identity.jwt``
ALLOWED_ISSUERS    ``identity.jwt[].issuer``     comma-separated; all of them sign with JWT_PUBLIC_KEY
ALLOWED_AUDIENCES  ``identity.jwt[].audiences``  comma-separated
REDIS_URL          ``store.url``                 wins over the file; here, and only here, it may hold the password
REDIS_PASSWORD     ``store.password_file``       the password itself
LOG_LEVEL          ``log.level``                 wins over the file; in any case, WARN too
=================  ============================  =================================================================

A variable wins over the file, as everywhere. Issuers are the exception: two half lists of whom to believe, one of them
out of sight, are a mistake that nobody should find out later. A variable that is set and cannot be used is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from genops_extauth.store_address import target
from genops_extauth.strict_yaml import Plain, Step

_IDENTITY = ("JWT_PUBLIC_KEY", "ALLOWED_ISSUERS", "ALLOWED_AUDIENCES")
_LEVELS = {"warn": "warning"}  # logrus' name, which envoyproxy/ratelimit's LOG_LEVEL has

_KEY_ALGORITHMS: list[Plain] = ["RS256", "ES256", "ES384", "ES512", "EdDSA"]
"""One for each kind of key, so that JWT_PUBLIC_KEY may be of any kind and is used in one way only (RFC 8725, 3.1)."""


@dataclass(slots=True)
class Overlay:
    """The file's data with the environment laid over it.

    `origins` tells which paths came from which variable. `complaints` are (variable, message). `ignored` sections are
    wrong already.
    """

    data: dict[str, Plain] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    origins: dict[tuple[Step, ...], str] = field(default_factory=dict)
    passwords: dict[str, dict[str, SecretStr]] = field(default_factory=dict, repr=False)
    complaints: list[tuple[str, str]] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)

    def text(self, variable: str) -> str | None:
        """Read a variable's text; None where it is not set, or empty, of which it complains."""
        text = self.environ.get(variable)
        if text is None or text.strip():
            return text
        self.complaints.append((variable, "is set but empty; give it a value, or remove it"))
        return None

    def put(self, section: str, key: str, value: Plain, variable: str) -> None:
        """Set a value, unless the file has no section there but something else, which is told in its place."""
        held = self.data.get(section)
        if held is None or isinstance(held, dict):
            self.data[section] = {**(held or {}), key: value}
            self.origins[section, key] = variable

    def keep(self, setting: str, variable: str, password: str) -> None:
        """Keep a password for a setting that the file may hold the name of a file for."""
        self.passwords.setdefault(setting, {})[variable] = SecretStr(password)

    def origin(self, path: tuple[Step, ...]) -> str | None:
        """Find the variable that the value at `path` came from."""
        starts = (path[:length] for length in range(len(path), 0, -1))
        return next((self.origins[start] for start in starts if start in self.origins), None)


def overlay(data: Mapping[str, Plain], environ: Mapping[str, str]) -> Overlay:
    """Lay the environment over the file's data, which is left as it is."""
    result = Overlay(dict(data), environ)
    _log(result)
    _store(result)
    if any(name in environ for name in _IDENTITY):
        _identity(result)
    return result


def _log(result: Overlay) -> None:
    level = result.text("LOG_LEVEL")
    if level is not None:
        level = level.strip().lower()
        result.put("log", "level", _LEVELS.get(level, level), "LOG_LEVEL")


def _store(result: Overlay) -> None:
    password = result.text("REDIS_PASSWORD")
    if password is not None:
        # A Secret made from a file often ends in the line break that an editor put there.
        result.keep("store.password", "REDIS_PASSWORD", password.rstrip("\r\n"))
    text = result.text("REDIS_URL")
    if text is not None:
        try:
            url = target(text.strip())
        except ValueError as error:
            result.complaints.append(("REDIS_URL", str(error)))
            result.ignored.add("store")
            return
        result.put("store", "url", url.url, "REDIS_URL")
        if url.password is not None:
            result.keep("store.password", "REDIS_URL", url.password)
    if result.passwords and result.data.get("store") is None:
        result.data["store"] = {}  # so that the section is looked at, and finds the password


def _identity(result: Overlay) -> None:
    identity = result.data.get("identity")
    issuers = [identity.get(kind) for kind in ("jwt", "hmac")] if isinstance(identity, dict) else []
    if any(issuers):
        for name in _IDENTITY:
            if name in result.environ and not _mentioned(name, issuers):
                message = "identity.jwt or .hmac in the file says whom to believe; remove this variable, or that list"
                result.complaints.append((name, message))
        return
    missing = [name for name in _IDENTITY if name not in result.environ]
    result.complaints += [(name, f"is not set; {', '.join(_IDENTITY)} go together") for name in missing]
    key, names, audiences = map(result.text, _IDENTITY)
    if key is None or names is None or audiences is None:
        result.ignored.add("identity")
        return
    result.put("identity", "jwt", [_issuer(name, audiences) for name in _listed(names)], "ALLOWED_ISSUERS")
    for index in range(len(_listed(names))):
        result.origins["identity", "jwt", index, "audiences"] = "ALLOWED_AUDIENCES"
        result.origins["identity", "jwt", index, "keys"] = "JWT_PUBLIC_KEY"


def _issuer(name: str, audiences: str) -> Plain:
    return {
        "issuer": name,
        "audiences": [*_listed(audiences)],
        "algorithms": _KEY_ALGORITHMS,
        "keys": {"public_key_env": "JWT_PUBLIC_KEY"},
    }


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _mentioned(name: str, plain: Plain) -> bool:
    """Whether the file itself points to the variable (``public_key_env``)."""
    if isinstance(plain, dict):
        return any(_mentioned(name, value) for value in plain.values())
    if isinstance(plain, list):
        return any(_mentioned(name, value) for value in plain)
    return plain == name
