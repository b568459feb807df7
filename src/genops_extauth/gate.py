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
    Grant,
    Identity,
    KeysUnavailable,
    Limited,
    Outcome,
    Reason,
    Request,
    StoreUnavailable,
    Telling,
    Verdict,
)
from genops_extauth.policy import NOBODY, Policy
from genops_extauth.quota import AS_DECLARED, Asked, Counted, Modes, asked, limited
from genops_extauth.tokens import UnknownKey, Verifier

# Envoy's clients hang up at their deadline; the answer must be on the wire before it.
_ANSWER_MARGIN = 0.02  # seconds
# The same for rate limits, of which Envoy's default timeout is 20 ms in all.
_LIMIT_MARGIN = 0.005  # seconds
# Envoy's default ext_authz timeout is 200 ms; a caller without a deadline is treated as one with it.
_PATIENCE = 0.2  # seconds
# Grants are small (about 1 kB with their serialised form); this many identities are active at once on a busy sidecar.
_GRANTS = 16_384

_ALL_TOLD = Telling()
_CHARGE = Role.CHARGE  # an enum's members are looked up slowly

_Refresh = Callable[[], Awaitable[bool]]


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


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """Everything a reload replaces.

    `modes` say how limits count, `telling` what clients hear of them. `refresh` asks for newer keys of an issuer, by
    its name; True when they changed.
    """

    verifier: Verifier
    policy: Policy
    tree: Tree
    modes: Modes = AS_DECLARED
    telling: Telling = _ALL_TOLD
    refresh: Mapping[str, _Refresh] = field(default_factory=dict)
    grants: Callable[[Identity], Grant] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grants", lru_cache(maxsize=_GRANTS)(self.policy.grants))


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
        try:
            verdict = request if isinstance(request, Denied) else await self._verdict(request, remaining)
        except Exception as error:  # noqa: BLE001 - it would become gRPC UNKNOWN, which failure_mode_allow lets pass
            self._observer.failed(error)
            verdict = Denied(Reason.INTERNAL, type(error).__name__)
        asked = None if isinstance(request, Denied) else request
        outcome = Outcome(verdict, self._decision_id(), asked, self._clocks.monotonic() - started)
        self._observer.checked(outcome)
        return outcome

    def _decision_id(self) -> str:
        return f"{self._origin}-{next(self._serial):011x}"

    async def _verdict(self, request: Request, remaining: Callable[[], float | None]) -> Verdict:
        generation = self.generation
        if generation.policy.is_open(request):
            return generation.policy.authorize(request, NOBODY, self._new_id)
        identity = await self._authenticate(generation, request, remaining)
        if isinstance(identity, Denied):
            return identity
        return generation.policy.authorize(request, generation.grants(identity), self._new_id)

    async def _authenticate(
        self, generation: Generation, request: Request, remaining: Callable[[], float | None]
    ) -> Identity | Denied:
        token = bearer_token(request)
        if isinstance(token, Denied):
            return token
        try:
            found = generation.verifier.verify(token, self._clocks.wall())
            if isinstance(found, UnknownKey) and await self._fresher_keys(generation, found, remaining):
                found = generation.verifier.verify(token, self._clocks.wall())
        except KeysUnavailable as outage:
            return Denied(Reason.KEYS_UNAVAILABLE, str(outage))
        return Denied(Reason.TOKEN_KEY_UNKNOWN) if isinstance(found, UnknownKey) else found

    async def _fresher_keys(
        self, generation: Generation, unknown: UnknownKey, remaining: Callable[[], float | None]
    ) -> bool:
        """Wait for the issuer's newer keys, as long as the caller's deadline allows: a rotation refuses no good token.

        Only the token with the unknown key waits, never one whose key is known.
        """
        refresh = generation.refresh.get(unknown.issuer.issuer)
        if refresh is None:
            return False
        left = remaining()
        patience = min(_PATIENCE if left is None else left, _PATIENCE) - _ANSWER_MARGIN
        try:
            async with asyncio.timeout(patience):
                return await refresh()
        except TimeoutError:
            raise KeysUnavailable(f"{unknown.issuer.issuer}: newer keys did not come in time") from None

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


def bearer_token(request: Request) -> bytes | Denied:
    """Find the bearer token of a request (RFC 6750, 2.1).

    Two Authorization fields are refused, never "first wins": what we would verify and what the upstream would read
    could differ (CVE-2020-25017, CVE-2021-32777).
    """
    field_value = request.headers.get("authorization")
    if field_value is None:
        return Denied(Reason.CREDENTIALS_MISSING)
    if "authorization" in request.repeated:
        return Denied(Reason.CREDENTIALS_AMBIGUOUS)
    scheme, _, token = field_value.partition(b" ")
    if scheme.lower() != b"bearer":
        return Denied(Reason.CREDENTIALS_UNSUPPORTED)
    return token.strip(b" ")
