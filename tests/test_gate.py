"""The sequence of a decision, with real tokens and the reference's buckets; time and keys are the test's."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from genops_extauth.bearer import Bearer, bearer_token
from genops_extauth.declared import Limit
from genops_extauth.gate import Authenticator, Clocks, Decided, Gate, Generation
from genops_extauth.hits import Answer, Book, Hit, Origin
from genops_extauth.keyset import KeySet, parse_jwks
from genops_extauth.limit_compiler import compile_tree
from genops_extauth.limit_rules import Settings
from genops_extauth.model import Allowed, Denied, Descriptor, Outcome, Request, StoreUnavailable
from genops_extauth.paths import pattern
from genops_extauth.policy import Policy
from genops_extauth.publickey import ALGORITHMS
from genops_extauth.quota import Modes
from genops_extauth.reasons import Reason
from genops_extauth.routes import Route
from genops_extauth.tiers import Tiers
from genops_extauth.tokens import Issuer, Verifier
from minting import NOW, claims, ec_pair, ed_pair, jwks, token, trusted

GOOD = token(ed_pair(), claims())
OPEN = Route(methods=frozenset({"GET"}), path=pattern("/healthz"), asks=False)
POLICY = Policy((OPEN,), ("team",), {"customer_tier": "free"}, accepted=("jwt",))
CUSTOMER = Descriptor(((b"customer_tier", b"free"), (b"customer_id", b"acme")))
USAGE = Descriptor((*CUSTOMER.entries, (b"genops_phase", b"charge")), 5)
TREE = compile_tree((), Settings(), Tiers("genops", {"free": Limit(3, "hour", name="free")}, "free"))


@dataclass
class Seen:
    """An observer that keeps what it is told."""

    outcomes: list[Outcome] = field(default_factory=list)
    limits: list[Decided] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def checked(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def limited(self, decided: Decided) -> None:
        self.limits.append(decided)

    def store_failed(self, error: StoreUnavailable) -> None:
        self.errors.append(error)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


class Memory:
    """The reference's buckets as a store, which answers while `open`; `error` is raised in place of an answer."""

    def __init__(self, error: Exception | None = None) -> None:
        self.book = Book()
        self.open = asyncio.Event()
        self.open.set()
        self.within: list[float | None] = []
        self._error = error

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        self.within.append(within)
        await self.open.wait()
        if self._error is not None:
            raise self._error
        return self.book.transact(hits, int(NOW * 1e6))


class Rotating:
    """Keys of an issuer that publishes `pair` when asked to refresh, after `gate` opens."""

    def __init__(self, now: KeySet | None, later: KeySet | None = None) -> None:
        self._now = now
        self._later = later
        self.gate = asyncio.Event()
        self.asked = 0

    def current(self) -> KeySet | None:
        return self._now

    async def refreshed(self) -> bool:
        self.asked += 1
        await self.gate.wait()
        self._now = self._later or self._now
        return self._later is not None


def keys(*pairs: object) -> KeySet:
    return parse_jwks(jwks(*pairs), ALGORITHMS)[0]


def gate_of(issuer: Issuer, seen: Seen | None = None, store: Memory | None = None, **generation: object) -> Gate:
    refresh = {issuer.issuer: issuer.keys.refreshed} if isinstance(issuer.keys, Rotating) else {}
    bearer: Authenticator = Bearer(Verifier([issuer]), refresh)
    parts = {"authenticators": {"jwt": bearer}, "policy": POLICY, "tree": TREE, **generation}
    clocks = Clocks(lambda: NOW, lambda: 0.0)
    return Gate(Generation(**parts), store or Memory(), clocks, seen or Seen(), new_id=lambda: "0123456789")  # type: ignore[arg-type]  # of the test's choosing


def request(authorization: bytes | None = b"Bearer " + GOOD, path: str = "/v1/chat", **more: bytes) -> Request:
    headers = dict(more) if authorization is None else {"authorization": authorization, **more}
    return Request("GET", path, "api.test", headers)


async def test_a_good_token_passes_with_its_identity() -> None:
    """A verified token gives its attributes, and the outcome is told to the observer once."""
    seen = Seen()
    outcome = await gate_of(trusted(), seen).check(request(), lambda: None)

    assert isinstance(outcome.verdict, Allowed)
    assert dict(outcome.verdict.grant.metadata)["team"] == "search"
    assert seen.outcomes == [outcome]


async def test_every_decision_has_an_id_of_its_own() -> None:
    """Two decisions never share an id."""
    gate = gate_of(trusted())
    ids = {(await gate.check(request(), lambda: None)).decision_id for _ in range(50)}

    assert len(ids) == 50


async def test_an_open_route_asks_for_nothing_and_believes_nothing() -> None:
    """On an open route a token, good or bad, changes nothing: the upstream hears of nobody."""
    gate = gate_of(trusted())
    for authorization in (None, b"Bearer " + GOOD, b"Bearer nonsense"):
        outcome = await gate.check(request(authorization, "/healthz"), lambda: None)

        assert isinstance(outcome.verdict, Allowed)
        assert outcome.verdict.grant is POLICY.nobody


async def test_an_unreadable_request_goes_out_as_its_refusal() -> None:
    """What the face could not read is refused, counted and given an id like any other decision."""
    seen = Seen()
    refusal = Denied(Reason.REQUEST_MALFORMED)
    outcome = await gate_of(trusted(), seen).check(refusal, lambda: None)

    assert outcome.verdict is refusal
    assert seen.outcomes == [outcome]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (None, Reason.CREDENTIALS_MISSING),
        (b"", Reason.CREDENTIALS_UNSUPPORTED),
        (b"Basic dXNlcjpwYXNz", Reason.CREDENTIALS_UNSUPPORTED),
        (b"Bearer", Reason.TOKEN_MALFORMED),
        (b"Bearer  ", Reason.TOKEN_MALFORMED),
        (b"Bearer " + GOOD + b",Bearer " + GOOD, Reason.TOKEN_MALFORMED),
        (b"Bearer \xff", Reason.TOKEN_MALFORMED),
    ],
)
async def test_a_request_without_one_bearer_token_is_refused(sent: bytes | None, reason: Reason) -> None:
    """No credentials, another scheme, no token behind the scheme, two tokens: each is refused with its reason."""
    outcome = await gate_of(trusted()).check(request(sent), lambda: None)

    assert isinstance(outcome.verdict, Denied)
    assert outcome.verdict.reason is reason


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER  "])
def test_the_scheme_is_case_insensitive(scheme: bytes) -> None:
    """The scheme is a token without case (RFC 9110, 11.1), and more than one space may follow."""
    assert bearer_token(request(scheme + b"abc ")) == b"abc"


async def test_two_authorization_fields_are_ambiguous() -> None:
    """Two fields are refused before either is looked at."""
    twice = Request("GET", "/", "api.test", {"authorization": b"Bearer a,Bearer b"}, frozenset({"authorization"}))

    assert (await gate_of(trusted()).check(twice, lambda: None)).verdict == Denied(Reason.CREDENTIALS_AMBIGUOUS)


async def test_a_rotation_refuses_no_good_token() -> None:
    """A token whose key has just been published waits for it, and passes; a known one does not wait."""
    source = Rotating(keys(ed_pair()), keys(ed_pair(), ec_pair()))
    gate = gate_of(trusted(source))
    waiting = asyncio.create_task(gate.check(request(b"Bearer " + token(ec_pair(), claims())), lambda: 5.0))
    known = await gate.check(request(), lambda: 5.0)
    source.gate.set()

    assert isinstance(known.verdict, Allowed)
    assert isinstance((await waiting).verdict, Allowed)
    assert source.asked == 1


async def test_an_unknown_key_that_nobody_publishes_is_refused() -> None:
    """When the newer keys have not the token's either, the token is not valid."""
    source = Rotating(keys(ed_pair()))
    source.gate.set()
    outcome = await gate_of(trusted(source)).check(request(b"Bearer " + token(ec_pair(), claims())), lambda: None)

    assert outcome.verdict == Denied(Reason.TOKEN_KEY_UNKNOWN)


@pytest.mark.parametrize("remaining", [0.05, 0.0, -1.0])
async def test_the_answer_comes_before_the_deadline(remaining: float) -> None:
    """While the issuer hangs, a token of an unknown key is answered before its caller hangs up: 503, try again."""
    gate = gate_of(trusted(Rotating(keys(ed_pair()))))
    check = asyncio.create_task(gate.check(request(b"Bearer " + token(ec_pair(), claims())), lambda: remaining))
    # Less than a caller without a deadline waits, and far more than this one does: the machine may be slow.
    later = asyncio.create_task(asyncio.sleep(0.17))
    first, _ = await asyncio.wait({check, later}, return_when=asyncio.FIRST_COMPLETED)
    later.cancel()

    assert check in first
    outcome = check.result()
    assert isinstance(outcome.verdict, Denied)
    assert outcome.verdict.reason is Reason.KEYS_UNAVAILABLE


async def test_without_any_keys_nobody_passes() -> None:
    """Identity fails closed: an issuer whose keys cannot be had makes 503, not 401, and never a pass."""
    outcome = await gate_of(trusted(Rotating(None))).check(request(), lambda: None)

    assert isinstance(outcome.verdict, Denied)
    assert outcome.verdict.reason is Reason.KEYS_UNAVAILABLE


async def test_a_defect_is_a_refusal_and_is_told() -> None:
    """An exception of ours becomes a refusal, for as a failed call a gateway might let it pass."""
    seen = Seen()
    outcome = await gate_of(trusted(), seen, authenticators={"jwt": None}).check(request(), lambda: None)

    assert outcome.verdict == Denied(Reason.INTERNAL, "AttributeError")
    assert [type(error) for error in seen.errors] == [AttributeError]


async def test_a_request_is_served_by_one_generation() -> None:
    """A reload while a request waits changes nothing for it: it ends under the policy that it began with."""
    source = Rotating(keys(ed_pair()), keys(ed_pair(), ec_pair()))
    gate = gate_of(trusted(source))
    waiting = asyncio.create_task(gate.check(request(b"Bearer " + token(ec_pair(), claims())), lambda: 5.0))
    await asyncio.sleep(0)
    strict = Policy(required=("cost_center",), accepted=("jwt",))
    gate.generation = Generation(gate.generation.authenticators, strict, TREE)
    source.gate.set()

    assert isinstance((await waiting).verdict, Allowed)
    after = await gate.check(request(), lambda: None)
    assert after.verdict == Denied(Reason.ATTRIBUTE_MISSING, "cost_center")


async def test_hits_are_taken_from_the_bucket_of_the_descriptor() -> None:
    """Each request takes hits_addend, at least one; over the limit it is refused and told when to come back."""
    gate = gate_of(trusted())
    answers = [await gate.limit(b"genops", [CUSTOMER], hits) for hits in (0, 2, 1)]

    assert [answer.over for answer in answers] == [False, False, True]
    assert [answer.statuses[0].remaining for answer in answers] == [2, 0, 0]
    assert answers[2].statuses[0].reset == 1200


async def test_a_descriptor_of_no_hits_only_looks() -> None:
    """A descriptor's own addend of 0 takes nothing, however often; its own addend wins over the request's."""
    gate = gate_of(trusted())
    look = Descriptor(CUSTOMER.entries, hits=0)
    answers = [await gate.limit(b"genops", [look], 3) for _ in range(9)]

    assert {answer.statuses[0].remaining for answer in answers} == {3}


async def test_a_refused_request_takes_nothing() -> None:
    """Of several descriptors, one that is over refuses all, and the others keep what they had."""
    gate = gate_of(trusted())
    other = Descriptor(((b"customer_tier", b"free"), (b"customer_id", b"other")))
    refused = await gate.limit(b"genops", [other, CUSTOMER, Descriptor(((b"x", b"y"),))], 4)
    after = await gate.limit(b"genops", [Descriptor(other.entries, hits=0)], 1)

    assert [status.over for status in refused.statuses] == [True, True, False]
    assert after.statuses[0].remaining == 3


async def test_what_meets_no_limit_asks_no_store() -> None:
    """A descriptor that no rule speaks of passes without the store, so its outage cannot refuse it."""
    gate = gate_of(trusted(), store=Memory(StoreUnavailable("timeout: down")))
    answer = await gate.limit(b"other", [CUSTOMER], 1)

    assert not answer.over
    assert answer.statuses[0].limit is None


async def test_the_observer_is_told_of_a_decision_once() -> None:
    """A decision is told with what its descriptors met, each limit that was counted, and where the answer is from."""
    seen = Seen()
    told = await gate_of(trusted(), seen).limit(b"genops", [CUSTOMER, Descriptor(((b"x", b"y"),))], 1)

    (decided,) = seen.limits
    assert decided.told is told
    assert [match is None for match in decided.matches] == [False, True]
    assert [each.met.rule.limit.name for each in decided.counted] == ["free"]
    assert (decided.domain, decided.origin, decided.seconds) == (b"genops", Origin.STORE, 0.0)


async def test_the_store_has_less_time_than_the_caller_waits() -> None:
    """The store answers, or fails, while the caller still listens; without a deadline it has its own time."""
    store = Memory()
    gate = gate_of(trusted(), store=store)
    for remaining in (0.02, 0.001, None):
        await gate.limit(b"genops", [CUSTOMER], 1, remaining)

    assert store.within == [pytest.approx(0.015), 0.0, None]


@pytest.mark.parametrize("usage", [USAGE, Descriptor(CUSTOMER.entries, 5, refund=True)], ids=["charge", "refund"])
async def test_what_was_used_is_charged_though_the_caller_hangs_up(usage: Descriptor) -> None:
    """A charge or refund whose caller hung up is made, and counted; whoever stops the process can wait for it."""
    seen, store = Seen(), Memory()
    gate = gate_of(trusted(), seen, store)
    store.open.clear()
    caller = asyncio.create_task(gate.limit(b"genops", [usage], 0))
    while not store.within:  # noqa: ASYNC110 - what is awaited has no event to wait for
        await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    store.open.set()
    await gate.settled()

    assert [each.hit.cost for decided in seen.limits for each in decided.counted] == [0 if usage.refund else 5]


async def test_a_charge_that_fails_after_its_caller_hung_up_is_told() -> None:
    """An outage that nobody waits for any more is still observed."""
    seen, store = Seen(), Memory(StoreUnavailable("timeout: down"))
    gate = gate_of(trusted(), seen, store)
    store.open.clear()
    caller = asyncio.create_task(gate.limit(b"genops", [USAGE], 0))
    while not store.within:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    caller.cancel()
    store.open.set()
    await gate.settled()

    assert [str(error) for error in seen.errors] == ["timeout: down"]


async def test_a_request_is_not_made_once_its_caller_hung_up() -> None:
    """A question is cancelled with its caller: nobody is there to be let through."""
    seen, store = Seen(), Memory()
    gate = gate_of(trusted(), seen, store)
    store.open.clear()
    caller = asyncio.create_task(gate.limit(b"genops", [CUSTOMER], 0))
    while not store.within:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    store.open.set()
    await gate.settled()

    assert seen.limits == []
    assert store.book.states == {}


async def test_limits_are_asked_under_one_generation() -> None:
    """A reload while the store is asked changes nothing for the request: its modes are those that it began with."""
    store = Memory()
    gate = gate_of(trusted(), store=store)
    await gate.limit(b"genops", [CUSTOMER], 3)
    store.open.clear()
    waiting = asyncio.create_task(gate.limit(b"genops", [CUSTOMER], 1))
    await asyncio.sleep(0)
    gate.generation = Generation(gate.generation.authenticators, POLICY, TREE, Modes(shadow=True))
    store.open.set()

    assert (await waiting).over
    assert not (await gate.limit(b"genops", [CUSTOMER], 1)).over


async def test_a_store_outage_is_told_and_passed_on() -> None:
    """A store that does not answer is the caller's to handle, and is observed once."""
    seen = Seen()
    gate = gate_of(trusted(), seen, Memory(StoreUnavailable("timeout: down")))
    with pytest.raises(StoreUnavailable, match="timeout: down"):
        await gate.limit(b"genops", [CUSTOMER], 1)

    assert [str(error) for error in seen.errors] == ["timeout: down"]


async def test_a_defect_while_limiting_tells_the_caller_nothing() -> None:
    """An exception of ours is an outage without details for the gateway, and told in full to the observer."""
    seen = Seen()
    gate = gate_of(trusted(), seen, Memory(RuntimeError("a secret")))
    with pytest.raises(StoreUnavailable, match=r"\Ainternal error\Z"):
        await gate.limit(b"genops", [CUSTOMER], 1)

    assert [str(error) for error in seen.errors] == ["a secret"]
