"""The routes section: which requests a route takes, whom it lets pass, and what must hold between routes."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator

from genops_extauth import body_rules, paths, routes
from genops_extauth.demand_sections import Body, Cors, Require, some
from genops_extauth.fields import Boolean, CheckError, Complaint, Name, Section, distinct, frozen
from genops_extauth.hosts import host_pattern
from genops_extauth.model import Method
from genops_extauth.reasons import Reason

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""RFC 9110, 9.3 and RFC 5789, without CONNECT and TRACE, which no gateway routes by path."""

_CREDENTIALS: tuple[routes.Credential, ...] = (*get_args(Method), "anonymous")


def _method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"methods are upper case: {', '.join(METHODS)}")
    return name


def _path(text: str) -> str:
    paths.pattern(text)
    return text


def _auth(value: object) -> tuple[routes.Credential, ...] | Literal["none", "refuse"]:
    if value in ("none", "refuse"):
        return "none" if value == "none" else "refuse"
    found = value if isinstance(value, list | tuple) else ()
    accepted = tuple(known for name in found for known in _CREDENTIALS if name == known)
    if not accepted or len(accepted) < len(found):
        raise ValueError(f"write none, refuse, or a list of {', '.join(_CREDENTIALS)}")
    if "anonymous" in accepted[:-1]:
        raise ValueError("anonymous is who has none of the credentials before it: write it last, once")
    if accepted == ("anonymous",):
        raise ValueError("asks for nothing: write none, or credentials before anonymous")
    return distinct(accepted)


Auth = Annotated[
    tuple[routes.Credential, ...] | Literal["none", "refuse"],
    PlainValidator(_auth),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": ["none", "refuse"]},
                {"type": "array", "items": {"type": "string", "enum": list(_CREDENTIALS)}, "minItems": 1},
            ]
        }
    ),
]


class Route(Section):
    """Which requests a route takes, and what it demands. What is left out matches everything, or demands nothing."""

    name: Name | None = Field(default=None, description="What logs and metrics call it.")
    hosts: Annotated[tuple[Annotated[str, AfterValidator(host_pattern)], ...], AfterValidator(some)] | None = Field(
        default=None, description="Its hosts: api.example.com, or *.example.com for every name below."
    )
    methods: Annotated[tuple[Annotated[str, AfterValidator(_method)], ...], AfterValidator(some)] | None = Field(
        default=None, description="Its methods, for example [GET]."
    )
    path: Annotated[str, AfterValidator(_path)] | None = Field(
        default=None, description="Its path: /v1/models, /v1/files/{id} for one segment, /v1/{rest=**} for the rest."
    )
    context: Annotated[Mapping[str, str], AfterValidator(frozen)] = Field(
        default_factory=dict, description="What the gateway must say of its route (context_extensions)."
    )
    auth: Auth | None = Field(
        default=None,
        description="none, refuse, or the credentials it takes, in order: jwt, api_key, certificate, anonymous.",
    )
    require: Require | None = Field(default=None, description="What the identity must have.")
    cors: Cors | None = Field(default=None, description="Preflights that pass. The route takes OPTIONS too then.")
    body: Body | None = Field(default=None, description="What the AI request may ask for.")
    denials: Literal["json", "problem", "plain"] = Field(
        default="json", description="How refusals are written: our JSON, RFC 9457's, or plain text."
    )
    escaped_slashes: Boolean = Field(
        default=False, description="Whether the rest of a path may hold %2F, as names of models do."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        complaints = [*self._of_an_open_route(), *self._of_what_asks_nobody(), *self._of_slashes()]
        if complaints:
            raise CheckError(*complaints)
        return self

    def _of_an_open_route(self) -> Iterator[Complaint]:
        if self.auth != "none":
            return
        if self.methods is None:
            yield ("methods",), "an open route is open by method: write which, for example [GET]"
        if self.path is None or not paths.pattern(self.path).exact:
            yield ("path",), "an open route is one exact path: write it, or auth with anonymous for more than one"

    def _of_what_asks_nobody(self) -> Iterator[Complaint]:
        for name in ("require", "cors", "body"):
            if getattr(self, name) is None:
                continue
            if self.auth == "refuse":
                yield (name,), "nobody passes here (auth: refuse): leave it out"
            elif self.auth == "none" and name == "cors":
                yield (name,), "an open route asks no origin either: add OPTIONS to its methods instead"
            elif name == "require" and (self.auth == "none" or "anonymous" in (self.auth or ())):
                yield (name,), "whoever comes without a credential has none of this: leave it out, or anonymous"

    def _of_slashes(self) -> Iterator[Complaint]:
        if self.escaped_slashes and not paths.pattern(self.path or "/").rest:
            yield ("escaped_slashes",), "an encoded slash has room in a rest only: write a path like /v1/{model=**}"

    def compiled(self, configured: tuple[Method, ...] = get_args(Method)) -> routes.Route:
        """Return what requests are matched with. `configured` are the credentials where `auth` is left out."""
        asks = self.auth not in ("none", "refuse")
        origins = frozenset(origin.encode() for origin in self.cors.origins) if self.cors else frozenset()
        return routes.Route(
            name=self.name or "",
            hosts=tuple(host.removeprefix("*") for host in self.hosts or ()),
            methods=frozenset((*self.methods, *(("OPTIONS",) if origins else ()))) if self.methods else frozenset(),
            path=paths.pattern(self.path) if self.path is not None else paths.ANY,
            context=self.context,
            accepts=() if isinstance(self.auth, str) else self.auth or configured,
            asks=asks,
            refusal=Reason.ROUTE_REFUSED if self.auth == "refuse" else None,
            requires=self.require.compiled() if self.require else None,
            origins=origins,
            body=self.body.compiled() if self.body else None,
            denials=self.denials,
            escaped_slashes=self.escaped_slashes,
        )


def _reachable(entries: tuple[Route, ...]) -> tuple[Route, ...]:
    """Refuse routes that no request can reach, and two of one name."""
    found: dict[tuple[int, str], str] = {}
    compiled = [entry.compiled() for entry in entries]
    for (first, one), (second, other) in combinations(enumerate(compiled), 2):
        if one.name and one.name == other.name:
            found.setdefault((second, "name"), f"entry [{first}] has this name too; choose another")
        if one.hides(other):
            message = f"no request gets here, for entry [{first}] takes them all: move it up, or remove it"
            found.setdefault((second, ""), message)
    if found:
        raise CheckError(*(((place, key) if key else (place,), message) for (place, key), message in found.items()))
    return entries


Routes = Annotated[tuple[Route, ...], AfterValidator(_reachable)]
"""The routes in the order in which they are tried."""


def conflicts(entries: Iterable[Route], configured: tuple[str, ...], tiers: Iterable[str]) -> Iterator[Complaint]:
    """What is wrong with routes beside the rest of the configuration; paths are relative to ``routes``.

    `configured` are the kinds of credentials that somebody can have, `tiers` those that there are.
    """
    known = {*tiers, body_rules.OTHERS}
    for place, entry in enumerate(entries):
        if not isinstance(entry.auth, str):
            for position, name in enumerate(entry.auth or ()):
                if name not in (*configured, "anonymous"):
                    yield (place, "auth", position), "nobody has this credential: configure it below identity"
        for path, tier in _tiers(entry):
            if tier not in known:
                yield (place, *path), f"no tier is named {tier}; there are {', '.join(tiers)}"


def _tiers(entry: Route) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield every tier that a route names, with where it does."""
    if entry.require is not None:
        for position, tier in enumerate(entry.require.tiers or ()):
            yield ("require", "tiers", position), tier
    if entry.body is not None:
        for rule in ("models", "max_tokens"):
            for tier in getattr(entry.body, rule) or ():
                yield ("body", rule, tier), tier
