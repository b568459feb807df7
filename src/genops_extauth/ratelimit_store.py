"""Where envoyproxy/ratelimit's variables say that its Redis is, as a store of ours.

One set of variables starts with ``REDIS_``, the other, of the store for limits per second, with ``REDIS_PERSECOND_``.
What they mean together is said in upstream's src/redis/driver_impl.go. Messages never quote a variable, which may hold
a password.
"""

from urllib.parse import quote

from genops_extauth.store_address import Target, target
from genops_extauth.variables import Reading


def location(reading: Reading, start: str) -> Target:
    """Where the store is whose variables begin with `start`. Raises ValueError that says what to write."""
    user, password = _credentials(reading.text(f"{start}AUTH"))
    login = f"{quote(user, safe='')}@" if user else ""
    place = reading.text(f"{start}URL")
    match reading.text(f"{start}TYPE"):
        case "single" if place.startswith("embedded:"):  # ours: keeps its data, where it names a folder
            return target(place, password=password)
        case "single" if _is_socket(reading, start, place):
            return target(f"unix://{login}{quote(place)}", password=password)
        case "single":
            return target(
                _server(place, login, given=password is not None, secured=reading.on(f"{start}TLS")), password=password
            )
        case "cluster" | "sentinel" as kind:
            scheme = f"redis+{kind}{'+tls' if reading.on(f'{start}TLS') else ''}"
            if kind == "sentinel":
                master, _, hosts = place.partition(",")
                place = f"{hosts}/{master}"
            return target(f"{scheme}://{login}{place.replace(' ', '')}", password=password)
    raise ValueError(f"cannot be used, as {start}TYPE names no kind of store: write SINGLE, SENTINEL or CLUSTER there")


def sentinel_password(reading: Reading, start: str) -> str | None:
    """The password of the Sentinels, where there are any. Raises ValueError where they want a user too."""
    if reading.text(f"{start}TYPE") != "sentinel":
        return None
    user, password = _credentials(reading.text(f"{start}SENTINEL_AUTH"))
    if user not in ("", "default"):
        raise ValueError("Sentinels are asked without a user: give them requirepass, and write the password alone")
    return password


def _credentials(auth: str) -> tuple[str, str | None]:
    """``password`` or ``user:password``."""
    user, given, password = auth.partition(":")
    return (user, password or None) if given else ("", auth or None)


def _is_socket(reading: Reading, start: str, place: str) -> bool:
    """Upstream takes anything for the path of a socket unless told otherwise; nobody means ``redis:6379`` by that."""
    name = f"{start}SOCKET_TYPE"
    is_path = place.startswith("/")
    socket = reading.text(name) == "unix" if name in reading.given else is_path
    if socket and not is_path:
        raise ValueError(f"is no absolute path: write one, or {name}=tcp where it is HOST:PORT")
    if is_path and not socket:
        raise ValueError(f"is the path of a socket: write HOST:PORT, or {name}=unix")
    if socket and reading.on(f"{start}TLS"):
        raise ValueError(f"is the path of a socket, which needs no TLS: set {start}TLS to false")
    return socket


def _server(place: str, login: str, *, given: bool, secured: bool) -> str:
    """HOST:PORT, or a URL, whose login counts where none is `given`."""
    scheme, _, place = place.rpartition("://")
    within, at, host = place.rpartition("@")
    scheme = "rediss" if secured and scheme in ("", "redis") else scheme or "redis"
    return f"{scheme}://{login if given else within + at}{host}"
