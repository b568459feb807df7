"""The sequence of a decision: authenticate, decide, count, observe.

Pure but for what it is given: the clocks, the store, the source of ids and the observer are arguments. A request is
served by one `Generation` from start to end; a reload builds another one completely and swaps the reference.

Outages become verdicts here and nowhere else. Identity fails closed: no keys, no pass.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

from genops_extauth.bucket import SECOND
from genops_extauth.hits import NOTHING_ASKED, Answer, Hit, Origin, Role
from genops_extauth.limits import Match, Tree
from genops_extauth.model import (
    Denied,
    Descriptor,
    Form,
    Grant,
    Identity,
    KeysUnavailable,
    Limited,
    Method,
    Outage,
    Outcome,
    Request,
    StoreUnavailable,
    Telling,
    Verdict,
)
from genops_extauth.policy import Policy
from genops_extauth.quota import AS_DECLARED, Asked, Counted, Modes, asked, limited
from genops_extauth.reasons import Reason
from genops_extauth.routes import Route

# Envoy's clients hang up at their deadline, for rate limits 20 ms by default; the answer must be there before it.
_LIMIT_MARGIN = 0.005  # seconds
# Grants are small (about 1 kB with their serialised form); this many identities are active at once on a busy sidecar.
_GRANTS = 16_384

_IN_HEADERS: tuple[Method, ...] = ("api_key", "jwt")  # that which is seldom there first: its absence ends the question
_OUTAGES = {KeysUnavailable: Reason.KEYS_UNAVAILABLE, StoreUnavailable: Reason.STORE_UNAVAILABLE}
_ALL_TOLD = Telling()
_CHARGE = Role.CHARGE  # an enum's members are looked up slowly

_JSON: Form = "json"


class Decided(NamedTuple):
    """A rate limit decision: the `matches` of its descriptors, what was `told`, and each limit that was `counted`."""

    domain: bytes
    matches: Sequence[Match | None]
    told: Limited
    counted: Sequence[Counted]
    origin: Origin
    seconds: float


class Store(Protocol):
    """Where the buckets are; or what stands before it, and spares it the question."""

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        """Do all that a group of hits asks for, within as many seconds. Raises `StoreUnavailable` in time."""


class Observer(Protocol):
    """What is told of decisions: metrics and logs. Its methods do not block and do not raise."""

    def checked(self, outcome: Outcome) -> None:
        """Take note of a Check's outcome."""

    def limited(self, decided: Decided) -> None:
        """Take note of a rate limit decision."""

    def store_failed(self, error: StoreUnavailable) -> None:
        """Take note of a decision that the store could not make."""

    def failed(self, error: Exception) -> None:
        """Take note of a defect of ours, with its traceback."""


class Authenticator(Protocol):
    """A way to say who one is: a token, an API key, a certificate."""

    def presented(self, request: Request) -> bool:
        """Whether the request holds a credential of this kind, good or bad."""

    async def authenticate(
        self, request: Request, wall: Callable[[], float], remaining: Callable[[], float | None]
    ) -> Identity | Denied | None:
        """Tell whose credential the request holds: None where it holds none of this kind, and the next may be asked.

        `wall` tells the seconds since the epoch, `remaining` those left until the caller hangs up. Raises
        `KeysUnavailable` and `StoreUnavailable`.
        """


class Revoked(Protocol):
    """The credentials that are good for nothing any more, whatever they say themselves."""

    def includes(self, identity: Identity) -> bool:
        """Whether the credential of this identity was revoked."""


class _NobodyRevoked:
    def includes(self, identity: Identity) -> bool:  # noqa: ARG002 - as `Revoked`
        return False


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """Everything a reload replaces.

    `modes` say how limits count, `telling` what clients hear of them.
    """

    authenticators: Mapping[str, Authenticator]
    policy: Policy
    tree: Tree
    modes: Modes = AS_DECLARED
    telling: Telling = _ALL_TOLD
    revoked: Revoked = field(default_factory=_NobodyRevoked)
    grants: Callable[[Identity], Grant] = field(init=False)
    _in_headers: tuple[Authenticator, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grants", lru_cache(maxsize=_GRANTS)(self.policy.grants))
        carried = tuple(self.authenticators[name] for name in _IN_HEADERS if name in self.authenticators)
        object.__setattr__(self, "_in_headers", carried if len(carried) > 1 else ())

    def ambiguous(self, request: Request) -> bool:
        """Whether the request holds two credentials, which could be of two callers: theirs are never mixed.

        A certificate is not counted: in a mesh it is that of whoever passes the request on, and on every connection.
        """
        for method in self._in_headers:
            if not method.presented(request):
                return False
        return bool(self._in_headers)


@dataclass(frozen=True, slots=True, eq=False)
class Clocks:
    """`wall` is seconds since the epoch, for tokens; `monotonic` is seconds, for durations."""

    wall: Callable[[], float]
    monotonic: Callable[[], float]


class Gate:
    """Answers the gateway's questions. One a process; `generation` is replaced on reload."""

    def __init__(
        self, generation: Generation, store: Store, clocks: Clocks, observer: Observer, *, new_id: Callable[[], str]
    ) -> None:
        self.generation = generation
        self._store = store
        self._clocks = clocks
        self._observer = observer
        self._new_id = new_id
        # Unique over processes and restarts, readable, and a hundred times cheaper than a random id a request.
        self._origin = new_id()[:8]
        self._serial = itertools.count(1)
        self._charging: set[asyncio.Future[Limited]] = set()

    async def check(self, request: Request | Denied, remaining: Callable[[], float | None]) -> Outcome:
        """Who is this, may it pass, on whose account? `remaining` tells the seconds left until the caller hangs up.

        A request that could not be read comes in as its refusal, and goes out as one. Never raises: whatever goes
        wrong is a refusal.
        """
        started = self._clocks.monotonic()
        asked, form, name = None, _JSON, ""
        try:
            if isinstance(request, Denied):
                verdict: Verdict = request
            else:
                asked, generation = request, self.generation
                route = generation.policy.route(request)
                name = route.name
                verdict = await self._verdict(generation, route, request, remaining)
                if isinstance(verdict, Denied):
                    form = generation.policy.form(route, request)
        except Exception as error:  # noqa: BLE001 - it would become gRPC UNKNOWN, which failure_mode_allow lets pass
            self._observer.failed(error)
            verdict = Denied(Reason.INTERNAL, type(error).__name__)
        seconds = self._clocks.monotonic() - started
        outcome = Outcome(verdict, self._decision_id(), asked, seconds, form, name)
        self._observer.checked(outcome)
        return outcome

    def _decision_id(self) -> str:
        return f"{self._origin}-{next(self._serial):011x}"

    async def _verdict(
        self, generation: Generation, route: Route, request: Request, remaining: Callable[[], float | None]
    ) -> Verdict:
        policy = generation.policy
        if policy.unasked(route, request):
            return policy.authorize(route, request, policy.nobody, self._new_id)
        try:
            identity = await self._authenticate(generation, route, request, remaining)
        except Outage as outage:
            return Denied(_OUTAGES[type(outage)], str(outage))
        if isinstance(identity, Denied):
            return identity
        if identity is not None and generation.revoked.includes(identity):
            return Denied(Reason.CREDENTIAL_REVOKED)
        grant = policy.nobody if identity is None else generation.grants(identity)
        return policy.authorize(route, request, grant, self._new_id)

    async def _authenticate(
        self, generation: Generation, route: Route, request: Request, remaining: Callable[[], float | None]
    ) -> Identity | Denied | None:
        """Ask in the route's order; None is somebody of whom the route does not ask who it is.

        The first who finds a credential of its kind decides, a bad one too: nobody falls through to a weaker one.
        """
        if generation.ambiguous(request):
            return Denied(Reason.CREDENTIALS_AMBIGUOUS, "a token and an API key")
        for method in route.accepts:
            if method == "anonymous":
                return None
            found = await generation.authenticators[method].authenticate(request, self._clocks.wall, remaining)
            if found is not None:
                return found
        unsupported = "authorization" in request.headers
        return Denied(Reason.CREDENTIALS_UNSUPPORTED if unsupported else Reason.CREDENTIALS_MISSING)

    async def limit(
        self, domain: bytes, descriptors: Sequence[Descriptor], hits: int, remaining: float | None = None
    ) -> Limited:
        """Is there quota left? `hits` is the request's hits_addend, 0 meaning 1; the caller waits `remaining` seconds.

        Charges and refunds are made even if the caller hangs up. Raises `StoreUnavailable`.
        """
        started = self._clocks.monotonic()
        modes = self.generation.modes
        try:
            now = int(self._clocks.wall() * SECOND)
            question = asked(self.generation.tree, domain, descriptors, hits, modes=modes, now=now)
        except Exception as error:
            self._observer.failed(error)
            raise StoreUnavailable("internal error") from error
        within = None if remaining is None else max(0.0, remaining - _LIMIT_MARGIN)
        deciding = self._decided(domain, question, modes, started=started, within=within)
        for hit in question.hits:
            if hit.role >= _CHARGE:
                return await self._shielded(deciding)
        return await deciding

    async def _decided(
        self, domain: bytes, question: Asked, modes: Modes, *, started: float, within: float | None
    ) -> Limited:
        try:
            hits = question.hits
            answer = await self._store.transact(hits, within) if hits else NOTHING_ASKED
            told, counted = limited(question, answer, modes)
            seconds = self._clocks.monotonic() - started
            self._observer.limited(Decided(domain, question.matches, told, counted, answer.origin, seconds))
        except StoreUnavailable as error:
            self._observer.store_failed(error)
            raise
        except Exception as error:
            self._observer.failed(error)
            raise StoreUnavailable("internal error") from error
        return told

    def _shielded(self, deciding: Coroutine[None, None, Limited]) -> Awaitable[Limited]:
        # Envoy hangs up on a charge as on everything else, after 20 ms, and then the transport cancels whoever serves
        # it: what was used up would cost nothing.
        charging = asyncio.ensure_future(deciding)
        self._charging.add(charging)
        charging.add_done_callback(self._charging.discard)
        return asyncio.shield(charging)

    async def settled(self) -> None:
        """Wait for the charges that are under way, whoever hung up on them: the store must stay open until then."""
        while self._charging:
            await asyncio.wait(self._charging)
