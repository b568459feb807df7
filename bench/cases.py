"""The rows: what is asked, what a right answer is, and what it may cost."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bench import answers, api_keys
from bench.bodies import certificate_checks, checks, key_checks, limits, random_customers, wide_limits
from bench.credentials import CUSTOMER, HOT, Material, forged
from bench.http2 import Question
from bench.load import Address

MOST_P99 = 0.003  # seconds at 1,000 requests a second; the peers: 1.3 to 2.8 ms, client included

# Requests at most at full speed in a row whose tokens are all different: enough for a second of the fastest server's
# CPU, a hundred times the resolution of what /proc counts; signing twice as many takes some seconds.
DISTINCT = 25_000

_GRPC = ((":method", "POST"), (":scheme", "http"), (":authority", "sidecar"))
_GRPC_END = (("content-type", "application/grpc"), ("te", "trailers"))
_GRPC_OK = ((b":status", b"200"), (b"grpc-status", b"0"))
_GET = ((":method", "GET"), (":scheme", "http"), (":authority", "api.example.com"), (":path", "/v1/models"))

_Credentials = Callable[[], Iterator[bytes]]
"""Starts a new sequence of Checks, one for each credential."""


def _grpc(path: str, marker: bytes = b"") -> Question:
    return Question((*_GRPC, (":path", path), *_GRPC_END), _GRPC_OK, marker)


GRANTED, REFUSED = _grpc(answers.CHECK, b"x-genops-customer-id"), _grpc(answers.CHECK, b"www-authenticate")
# The first guesses are refused with a challenge, and whoever goes on is told to wait: common to both is this.
GUESSED = _grpc(answers.CHECK, b"no-store")

# RateLimitResponse: overall_code (1, a varint), OK (1); then a status (2). A duration of 1 s begins alike.
_LIMIT_OK = b"\x08\x01\x12"


def _nothing_laid(_url: str) -> None:
    """Most rows need nothing in the store."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row for each transport.

    `bodies` starts a new sequence of requests. `check` raises WrongAnswerError when the server at an address does not
    answer as it must. `target` and `peer` (the best peer) are server CPU in the unit. `envoy` names the filter of an
    Envoy in between. `store` is what holds the buckets: valkey, embedded, redis, cluster; `lay` puts there, by its URL,
    what must be there first. `variant` is of `settings`, or "unbatched", a script for every request. `most` bounds the
    requests of the run at full speed. `first`, if any, are the requests that go before the measurement.
    """

    name: str
    question: Question
    bodies: Callable[[], Iterable[bytes]]
    check: Callable[[Address], None]
    target: float | None = None
    peer: float | None = None
    envoy: str = ""
    store: str = "valkey"
    variant: str = ""
    most: int | None = None
    lay: Callable[[str], None] = _nothing_laid
    first: Callable[[], Iterable[bytes]] | None = None


def baseline(material: Material) -> Case:
    """The unit: the same CheckRequest to an empty handler."""
    message = next(checks(material.hot))
    return Case(
        "empty grpc.aio call",
        _grpc(answers.CHECK),
        lambda: itertools.repeat(message),
        lambda address: answers.empty(address, message),
    )


def cases(material: Material) -> tuple[Case, ...]:
    """All rows of the product, in the order of the table."""
    return (*_checks(material), *_limits(), *_behind_envoy(material))


def _checks(material: Material) -> Iterator[Case]:
    """Tokens are made when a row asks for its first: signing takes a while."""

    def hot() -> Iterator[bytes]:
        return checks(material.hot)

    def keys() -> Iterator[bytes]:
        return key_checks(key.text for key in material.keys)

    def certificates() -> Iterator[bytes]:
        return certificate_checks(material.certificates)

    def lay(url: str) -> None:
        api_keys.stored((key.record for key in material.keys), url)

    yield _known("known token", hot, peer=1.61)
    yield from _distinct(material)
    yield _bad("bad token again", lambda: itertools.repeat(next(checks([material.bad]))), target=0.25)
    yield _bad("oversized token", lambda: itertools.repeat(next(checks([material.oversized]))))
    yield _known("known token, a route's demands", hot, variant="a route")
    yield _known("known token, 200 routes", hot, variant="200 routes")
    yield _known("certificate", certificates, variant="credentials")
    yield _known("API key", keys, variant="credentials", lay=lay)
    yield _bad("malformed API key", lambda: key_checks(api_keys.malformed()), variant="credentials")
    yield _bad("unknown API key", lambda: key_checks(api_keys.unknown()), question=GUESSED, variant="credentials")


def _distinct(material: Material) -> Iterator[Case]:
    """Rows of tokens that are all different. The last is kept for the check, so that the load meets none twice."""
    newest = CUSTOMER.format(HOT + material.distinct - 1)
    yield Case(
        "Check, new token",
        GRANTED,
        lambda: checks(material.fresh[:-1]),
        lambda address: answers.allowed(address, next(checks(material.fresh[-1:])), newest),
        target=0.75,
        peer=1.61,
        most=DISTINCT,
    )
    yield Case(
        "Check, 100,000 tokens",
        GRANTED,
        lambda: checks(itertools.starmap(random.Random(4).choice, itertools.repeat((material.many,)))),
        lambda address: answers.allowed(address, next(checks(material.many)), CUSTOMER.format(HOT)),
        first=lambda: checks(material.many),
    )
    yield Case(
        "Check, expired token",
        REFUSED,
        lambda: checks(material.expired[:-1]),
        lambda address: answers.unauthorized(address, next(checks(material.expired[-1:]))),
        target=0.25,
        peer=0.26,
        most=DISTINCT,
    )
    yield _bad("forged token", lambda: checks(forged(material.hot[0])))


def _known(
    name: str,
    credentials: _Credentials,
    *,
    peer: float | None = None,
    variant: str = "",
    lay: Callable[[str], None] = _nothing_laid,
) -> Case:
    """Good credentials, in turn; the first is that of customer 0."""
    return Case(
        f"Check, {name}",
        GRANTED,
        lambda: itertools.cycle(credentials()),
        lambda address: answers.allowed(address, next(credentials()), CUSTOMER.format(0)),
        target=0.20,
        peer=peer,
        variant=variant,
        lay=lay,
    )


def _bad(
    name: str,
    credentials: _Credentials,
    *,
    target: float | None = None,
    question: Question = REFUSED,
    variant: str = "",
) -> Case:
    return Case(
        f"Check, {name}",
        question,
        credentials,
        lambda address: answers.unauthorized(address, next(credentials())),
        target=target,
        variant=variant,
    )


def limit_question() -> Question:
    """ShouldRateLimit; a right answer says OK."""
    return _grpc(answers.LIMIT, _LIMIT_OK)


def _limits() -> Iterator[Case]:
    question = limit_question()
    one = next(limits("premium", iter(["customer-one"])))
    free = next(limits("free", iter(["customer-free"])))

    def many() -> Iterator[bytes]:
        return limits("premium", random_customers())

    def check(address: Address) -> None:
        answers.limited(address, one, free)

    def ask(
        name: str,
        bodies: Callable[[], Iterable[bytes]],
        target: float | None = None,
        *,
        store: str = "valkey",
        variant: str = "",
    ) -> Case:
        title = f"ShouldRateLimit, {name}"
        return Case(title, question, bodies, check, target=target, peer=0.31, store=store, variant=variant)

    yield ask("one key", lambda: itertools.repeat(one), 0.25)
    yield ask("a million keys", many, 0.25)
    yield ask("one key, leased", lambda: itertools.repeat(one), 0.20, variant="leases")
    yield ask("a million keys, no batches", many, variant="unbatched")
    yield ask("a million keys, embedded", many, store="embedded")
    yield ask("a million keys, Redis", many, store="redis")
    yield ask("a million keys, Cluster", many, store="cluster")
    for count, target in ((4, 0.40), (10, None)):
        yield _wide(question, count, target)


def _wide(question: Question, count: int, target: float | None) -> Case:
    first = next(wide_limits(count, random_customers()))
    return Case(
        f"ShouldRateLimit, {count} descriptors",
        question,
        lambda: wide_limits(count, random_customers()),
        lambda address: answers.wide(address, first, count),
        target=target,
    )


def _behind_envoy(material: Material) -> Iterator[Case]:
    """Bodies are empty here: these are GET requests, and Envoy makes the messages."""
    good = {"authorization": f"Bearer {material.hot[0]}"}
    bad = {"authorization": f"Bearer {material.bad}"}
    premium, free = ({"x-tier": tier, "x-customer": f"envoy-{tier}"} for tier in ("premium", "free"))
    nobody: dict[str, str] = {}
    authorized, limited = ((good, 200), (bad, 401), (nobody, 401)), ((premium, 200), (free, 200), (free, 429))

    def nothing() -> Iterator[bytes]:
        return itertools.repeat(b"")

    yield Case(
        "Envoy, Check, known token",
        Question((*_GET, *good.items()), ((b":status", b"200"),)),
        nothing,
        lambda address: answers.statuses(address, iter(authorized)),
        envoy="ext_authz",
    )
    yield Case(
        "Envoy, ShouldRateLimit, one key",
        Question((*_GET, *premium.items()), ((b":status", b"200"),)),
        nothing,
        lambda address: answers.statuses(address, iter(limited)),
        envoy="ratelimit",
    )
