"""Where the buckets are kept, as users write it: one URL -> a `Target`, which never shows its passwords.

    embedded:  embedded:/PATH
    redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]   rediss:// (TLS)   HOST:PORT, as envoyproxy/ratelimit's REDIS_URL
    unix://[USER[:PASSWORD]@]/PATH[?db=N]
    redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT],HOST[:PORT]/MASTER[/DB]    redis+sentinel+tls://
    redis+cluster://[USER[:PASSWORD]@]HOST[:PORT],HOST[:PORT]                 redis+cluster+tls://

No message quotes the text: it may hold a password.
"""

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

PORT, SENTINEL_PORT = 6379, 26379
_LARGEST_PORT = 65_535


class Kind(enum.StrEnum):
    """What answers at an address."""

    EMBEDDED = "embedded"
    SERVER = "redis"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


@dataclass(frozen=True, slots=True)
class Host:
    """A TCP address. `name` is a name or an IP address without brackets."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """How a connection is secured: files in PEM, read anew for each connection, so that certificates may rotate.

    Without `ca_file` the system's authorities are believed. `server_name` is the name that the certificate must have,
    where it is not the host's.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A store: where it is, and how to be let in.

    `hosts` are the server, the sentinels, or some nodes of the cluster; a unix socket has a `path` instead, and so has
    the folder of an embedded store that keeps its data. `sentinel_password` is for the sentinels themselves.
    """

    kind: Kind
    hosts: tuple[Host, ...] = ()
    path: str | None = None
    database: int = 0
    master: str = ""
    user: str = ""
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    @property
    def url(self) -> str:
        """The URL in full, but for passwords."""
        return self._written(f"{quote(self.user, safe='')}@" if self.user else "")

    @property
    def address(self) -> str:
        """The URL as messages show it: no user, no password."""
        return self._written("")

    def secured(self, tls: Tls) -> "Target":
        """The same with these TLS options; without TLS in its URL, as it is."""
        return self if self.tls is None else replace(self, tls=tls)

    def _written(self, login: str) -> str:
        hosts = ",".join(map(str, self.hosts))
        match self.kind:
            case Kind.EMBEDDED:
                return f"embedded:{self.path or ''}"
            case Kind.SERVER if self.path is not None:
                return f"unix://{login}{self.path}{f'?db={self.database}' if self.database else ''}"
            case Kind.SERVER:
                return f"{'redis' if self.tls is None else 'rediss'}://{login}{hosts}/{self.database}"
        scheme = self.kind.value if self.tls is None else f"{self.kind.value}+tls"
        if self.kind is Kind.SENTINEL:
            return f"{scheme}://{login}{hosts}/{self.master}{f'/{self.database}' if self.database else ''}"
        return f"{scheme}://{login}{hosts}"


_LOGIN = r"(?:(?P<user>[^:@/?#\s]*)(?::(?P<password>[^@/?#\s]*))?@)?"
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?"
_DATABASE = r"(?P<database>\d{1,4})"
_FORMS = {
    Kind.SERVER: re.compile(rf"redis(?P<secure>s)?://{_LOGIN}(?P<hosts>{_HOST})(?:/{_DATABASE}?)?", re.ASCII),
    Kind.SENTINEL: re.compile(
        rf"redis\+sentinel(?P<secure>\+tls)?://{_LOGIN}(?P<hosts>{_HOST}(?:,{_HOST})*)"
        rf"/(?P<master>[A-Za-z0-9._-]+)(?:/{_DATABASE})?",
        re.ASCII,
    ),
    Kind.CLUSTER: re.compile(
        rf"redis\+cluster(?P<secure>\+tls)?://{_LOGIN}(?P<hosts>{_HOST}(?:,{_HOST})*)/?", re.ASCII
    ),
}
_TCP = re.compile(r"(?:\[(?P<address>[^\]]+)\]|(?P<name>[^:]+))(?::(?P<port>\d+))?", re.ASCII)
_LIST = re.compile(rf"rediss?://{_LOGIN}{_HOST}(?:,{_HOST})+(?:/.*)?", re.ASCII)
_UNIX = re.compile(rf"unix://{_LOGIN}(?P<path>/[^@?#\s]+)(?:\?db={_DATABASE})?", re.ASCII)
_EMBEDDED = re.compile(r"embedded:(?P<path>/[^?#\n]*[^/?#\s])?")

_LISTS = (
    "a list of hosts is of sentinels or of a cluster: write redis+sentinel://HOST:PORT,HOST:PORT/MASTER "
    "or redis+cluster://HOST:PORT,HOST:PORT"
)
_ESCAPES = "for TLS, and %40 %2F %3F %23 for @ / ? # in a password"
# What people bring from elsewhere, and what to write instead.
_ELSEWHERE = (
    ("valkeys:", "write rediss://HOST:PORT; Valkey speaks the same protocol"),
    ("valkey", "write redis://HOST:PORT; Valkey speaks the same protocol"),
    ("/", "write unix:// before the path of a socket, for example unix:///run/valkey.sock"),
    ("embedded:", "write embedded: for a store that forgets, or embedded:/PATH with the absolute path of its folder"),
    ("rediss+", "write redis+sentinel+tls:// or redis+cluster+tls://"),
    ("sentinel:", "write redis+sentinel://HOST:PORT,HOST:PORT/MASTER"),
    (
        "redis+sentinel",
        f"write redis+sentinel://HOST:PORT,HOST:PORT/MASTER, or .../MASTER/DB; redis+sentinel+tls:// {_ESCAPES}",
    ),
    (
        "redis+cluster",
        f"write redis+cluster://HOST:PORT,HOST:PORT with no database; redis+cluster+tls:// {_ESCAPES}",
    ),
)
_WRITE = (
    "not a store: write embedded:, redis://HOST:PORT, rediss://HOST:PORT (TLS), unix:///PATH, HOST:PORT, "
    "redis+sentinel://HOST:PORT,.../MASTER or redis+cluster://HOST:PORT,...; "
    "in a URL, write the characters @ / ? # of a password as %40 %2F %3F %23"
)


def target(
    text: str, *, password: str | None = None, sentinel_password: str | None = None, tls: Tls | None = None
) -> Target:
    """What a URL means. `password` wins over the one in it. Raises ValueError, with what to write instead.

    `tls` are options for where the URL says TLS.
    """
    found = _read(text)
    if password is not None:
        found = replace(found, password=password)
    found = replace(found, sentinel_password=sentinel_password)
    return found if tls is None else found.secured(tls)


def _read(text: str) -> Target:
    if match := _EMBEDDED.fullmatch(text):
        return Target(Kind.EMBEDDED, path=match["path"])
    if match := _UNIX.fullmatch(text):
        place = Target(Kind.SERVER, path=unquote(match["path"]), database=int(match["database"] or 0))
        return _entered(place, match)
    full = text if "://" in text else f"redis://{text}"
    for kind, form in _FORMS.items():
        if match := form.fullmatch(full):
            return _entered(_served(kind, match.groupdict()), match)
    for start, hint in _ELSEWHERE:
        if text.startswith(start):
            raise ValueError(hint)
    raise ValueError(_LISTS if _LIST.fullmatch(full) else _WRITE)


def _served(kind: Kind, parts: Mapping[str, str | None]) -> Target:
    port = SENTINEL_PORT if kind is Kind.SENTINEL else PORT
    return Target(
        kind,
        hosts=tuple(_host(each, port) for each in (parts["hosts"] or "").split(",")),
        database=int(parts.get("database") or 0),
        master=parts.get("master") or "",
        tls=Tls() if parts["secure"] else None,
    )


def _entered(place: Target, match: re.Match[str]) -> Target:
    password = unquote(match["password"]) if match["password"] else None
    return replace(place, user=unquote(match["user"] or ""), password=password)


def _host(text: str, port: int) -> Host:
    found = _TCP.fullmatch(text)
    number = int(found["port"] or port) if found else 0
    if found is None or not 0 < number <= _LARGEST_PORT:
        raise ValueError("write a port from 1 to 65535 after each host")
    return Host(found["name"] or found["address"], number)
