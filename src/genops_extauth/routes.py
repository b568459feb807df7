"""Routes: which rules a request falls under. The first that matches, in the order of the file, decides.

Matching reads nothing that a client could give a second meaning: the path, if it has one reading (`paths`), the method,
the host without its port, and what the gateway says of its own route. It remembers nothing that a client could fill.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from genops_extauth.body_rules import BodyRules
from genops_extauth.hosts import host_of
from genops_extauth.model import Form, Method, Request
from genops_extauth.paths import ANY, Pattern, decoded, is_plain
from genops_extauth.reasons import Reason

Credential = Method | Literal["anonymous"]
"""What a route accepts; anonymous is none at all."""

_ANY_HOST = ""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What an identity must have: all of the `scopes`, and one each of the others that are not empty.

    Values are compared whole. `attributes` are names with the values that will do.
    """

    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    tiers: frozenset[str] = frozenset()
    attributes: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """Which requests a route takes, and what it makes of them.

    `hosts`, `methods`, `path` and `context` must all match; an empty one always does. A host that begins with ``.``
    takes every name that ends with it. `accepts` are credentials in the order in which they are asked for; where it
    does not ask (`asks`) none is looked at. With a `refusal` nobody passes. `origins` are those whose preflights pass.
    `escaped_slashes`: a path may hold ``%2F``, where the slash itself would lead to the same route.
    """

    name: str = ""
    hosts: tuple[str, ...] = ()
    methods: frozenset[str] = frozenset()
    path: Pattern = ANY
    context: Mapping[str, str] = field(default_factory=dict)
    accepts: tuple[Credential, ...] = ()
    asks: bool = True
    refusal: Reason | None = None
    requires: Requirements | None = None
    origins: frozenset[bytes] = frozenset()
    body: BodyRules | None = None
    denials: Form = "json"
    escaped_slashes: bool = False

    def hides(self, other: "Route") -> bool:
        """Whether every request that the `other` takes is one of its own, so that nothing is left for it."""
        return (
            (not self.hosts or (bool(other.hosts) and all(map(self._takes_host, other.hosts))))
            and (not self.methods or (bool(other.methods) and self.methods >= other.methods))
            and self.path.covers(other.path)
            and self.context.items() <= other.context.items()
        )

    def _takes_host(self, host: str) -> bool:
        return any(host == own or (own.startswith(".") and host.endswith(own)) for own in self.hosts)


class _Entry(NamedTuple):
    """A route in its place."""

    place: int
    route: Route

    def takes(self, request: Request) -> bool:
        """Whether its method and context match, its host and path being found to."""
        route = self.route
        if route.methods and request.method not in route.methods:
            return False
        return not route.context or all(request.context.get(name) == value for name, value in route.context.items())


class _Shape(NamedTuple):
    """Templates with literal segments at the same `places`: as many segments, then the end or any rest."""

    length: int
    rest: bool
    places: tuple[int, ...]

    def literals(self, segments: list[str]) -> tuple[str, ...] | None:
        """Pick a path's segments at those places; None where it has another number of segments, or an empty one."""
        if len(segments) <= self.length if self.rest else len(segments) != self.length:
            return None
        if not self.rest and not segments[-1] and self.length - 1 not in self.places:
            return None
        return tuple([segments[place] for place in self.places])


class _Paths:
    """The routes of one host, by their paths: exact ones as they stand, templates by their literal segments."""

    __slots__ = ("_deepest", "_exact", "_shapes")

    def __init__(self, entries: Iterable[_Entry]) -> None:
        self._exact: dict[str, list[_Entry]] = {}
        self._shapes: dict[_Shape, dict[tuple[str, ...], list[_Entry]]] = {}
        for entry in entries:
            pattern = entry.route.path
            literals = {place: text for place, text in enumerate(pattern.segments) if text is not None}
            if pattern.exact:
                self._exact.setdefault("/" + "/".join(literals.values()), []).append(entry)
            else:
                shape = _Shape(len(pattern.segments), pattern.rest, tuple(literals))
                self._shapes.setdefault(shape, {}).setdefault(tuple(literals.values()), []).append(entry)
        self._deepest = max((shape.length for shape in self._shapes), default=0)

    def at(self, path: str) -> Iterator[list[_Entry]]:
        """Yield the routes whose paths take `path`, in lists, each in the order of the file."""
        exact = self._exact.get(path)
        if exact is not None:
            yield exact
        if self._shapes:
            segments = path[1:].split("/", self._deepest + 1)
            for shape, by_literals in self._shapes.items():
                literals = shape.literals(segments)
                found = by_literals.get(literals) if literals is not None else None
                if found is not None:
                    yield found


class Routes:
    """Routes in the order of the file. Without a match any of the `accepted` credentials will do."""

    __slots__ = ("_ambiguous", "_anywhere", "_default", "_depths", "_hostless", "_named")

    def __init__(self, routes: Iterable[Route], accepted: tuple[Credential, ...]) -> None:
        self._default = Route(accepts=accepted)
        self._ambiguous = Route(accepts=accepted, refusal=Reason.PATH_NOT_CANONICAL)
        self._hostless = Route(accepts=accepted, refusal=Reason.REQUEST_MALFORMED)
        entries: dict[str, list[_Entry]] = {}
        for place, route in enumerate(routes):
            for host in route.hosts or (_ANY_HOST,):
                entries.setdefault(host, []).append(_Entry(place, route))
        self._anywhere = tuple(_Paths(found) for host, found in entries.items() if host == _ANY_HOST)
        self._named = {host: _Paths(found) for host, found in entries.items() if host != _ANY_HOST}
        self._depths = {host.count(".") for host in self._named if host.startswith(".")}

    def find(self, request: Request) -> Route:
        """Find the route of a request.

        A path with more than one reading matches none. Where it is only encoded, both readings must lead to one route:
        ``/v1/models%3Apull`` would otherwise be a way around the demands of ``/v1/models:pull``. So would
        ``user@api.example.com`` be around those of a host.
        """
        path, hosted = request.path, self._of_host(request.host)
        if hosted is None:
            return self._hostless
        if is_plain(path):
            return self._first(request, hosted, path)
        plain = decoded(path)
        if plain is None:
            return self._ambiguous
        route = self._first(request, hosted, path)
        if route is not self._first(request, hosted, plain):
            return self._ambiguous
        slashes = path.count("/") != plain.count("/")
        return self._ambiguous if slashes and not route.escaped_slashes else route

    def _first(self, request: Request, hosted: Sequence[_Paths], path: str) -> Route:
        first, place = self._default, None
        for paths in hosted:
            for entries in paths.at(path):
                for entry in entries:
                    if place is not None and entry.place > place:
                        break
                    if entry.takes(request):
                        first, place = entry.route, entry.place
                        break
        return first

    def _of_host(self, authority: str) -> Sequence[_Paths] | None:
        """The routes of a host; None where routes have hosts, and this could be one of them to somebody else."""
        if not self._named:
            return self._anywhere
        host = host_of(authority)
        if authority and not host:
            return None
        names = [host]
        if self._depths:
            labels = host.split(".")
            names += ["." + ".".join(labels[-depth:]) for depth in self._depths if depth < len(labels)]
        return [*self._anywhere, *(self._named[name] for name in names if name in self._named)]
