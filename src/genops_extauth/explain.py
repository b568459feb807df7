"""The path one request takes, step by step, by the very code that decides.

Nothing is consumed: buckets are looked at. The checks stand in the order in which `gate`, `tokens` and `policy` make
them, so those before the one that refused have passed, and those after it were not made.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from genops_extauth.bucket import Answer, Hit, Level
from genops_extauth.gate import Clocks, Gate
from genops_extauth.generations import Generations
from genops_extauth.limits import CUSTOMER_KEY, TIER_KEY, Match, Tree
from genops_extauth.model import Allowed, Denied, Grant, Limited, Outcome, Reason, Request, StoreUnavailable
from genops_extauth.policy import DENIALS, NOBODY
from genops_extauth.redis_store import RedisStore
from genops_extauth.settings import Config

CHECKS: Mapping[str, frozenset[Reason]] = {
    "credential: one bearer token": frozenset(
        {Reason.CREDENTIALS_MISSING, Reason.CREDENTIALS_AMBIGUOUS, Reason.CREDENTIALS_UNSUPPORTED}
    ),
    "token: size and compact form": frozenset({Reason.TOKEN_TOO_LARGE, Reason.TOKEN_MALFORMED}),
    "token: header": frozenset({Reason.TOKEN_HEADER_REFUSED}),
    "token: claims are well formed": frozenset({Reason.TOKEN_CLAIMS_MALFORMED}),
    "token: issuer is configured": frozenset({Reason.TOKEN_ISSUER_UNKNOWN}),
    "token: algorithm is the issuer's": frozenset({Reason.TOKEN_ALGORITHM_REFUSED}),
    "token: audience is ours": frozenset({Reason.TOKEN_AUDIENCE_WRONG}),
    "token: valid now": frozenset({Reason.TOKEN_EXPIRED, Reason.TOKEN_NOT_YET_VALID}),
    "token: key is known": frozenset({Reason.TOKEN_KEY_UNKNOWN, Reason.KEYS_UNAVAILABLE}),
    "token: signature": frozenset({Reason.TOKEN_SIGNATURE_WRONG}),
    "identity: attributes are usable": frozenset({Reason.ATTRIBUTE_UNUSABLE}),
    "identity: tier is the issuer's to grant": frozenset({Reason.TIER_NOT_GRANTED}),
    "request: well formed": frozenset({Reason.REQUEST_MALFORMED, Reason.REQUEST_INCONSISTENT}),
    "identity: required attributes": frozenset({Reason.ATTRIBUTE_MISSING}),
}


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket that the request would hit, and its level now; without one, `note` says why it is not known."""

    tier: str
    key: str
    level: Level | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of a request: `checks` passed, then a refusal or a grant, and the buckets."""

    checks: tuple[str, ...]
    refused: Denied | None
    check: str
    allowed: Allowed | None
    buckets: tuple[Bucket, ...]

    def lines(self) -> Iterator[str]:
        """Tell it to a person."""
        yield from (f"passed   {check}" for check in self.checks)
        if self.refused is not None:
            denial = DENIALS[self.refused.reason]
            detail = f" ({self.refused.detail})" if self.refused.detail else ""
            yield f"refused  {self.check}: {self.refused.reason}{detail}"
            yield f"answer   {denial.status} {denial.error}: {denial.message}"
        if self.allowed is not None:
            yield from _told(self.allowed)
        for bucket in self.buckets:
            yield f"bucket   {bucket.key} (tier {bucket.tier}): {_state(bucket)}"

    def document(self) -> dict[str, object]:
        """Tell it to a program: JSON-ready."""
        document: dict[str, object] = {"allowed": self.allowed is not None, "checks_passed": list(self.checks)}
        if self.refused is not None:
            refused = {"check": self.check, "reason": self.refused.reason.value, "detail": self.refused.detail}
            document |= {"refused": refused}
        if self.allowed is not None:
            grant = self.allowed.grant
            removed = [*grant.removed, *self.allowed.aliases]
            document |= {"headers": dict(grant.headers), "headers_to_remove": removed}
        return document | {"buckets": [_bucket_document(bucket) for bucket in self.buckets]}


def _bucket_document(bucket: Bucket) -> dict[str, object]:
    known = {"note": bucket.note} if bucket.level is None else asdict(bucket.level)
    return {"key": bucket.key, "tier": bucket.tier, **known}


def _told(allowed: Allowed) -> Iterator[str]:
    identity = allowed.grant.identity
    yield "identity none: an open route" if identity is None else f"identity {identity.subject} of {identity.issuer}"
    yield from (f"set      {name}: {value}" for name, value in allowed.grant.headers)
    yield from (f"remove   {name} (sent by the client)" for name in allowed.aliases)
    yield f"remove   {', '.join(allowed.grant.removed)} (always)"


def _state(bucket: Bucket) -> str:
    if bucket.level is None:
        return bucket.note
    verdict = f"{bucket.level.remaining} left" if bucket.level.fits else "over the limit"
    return f"{verdict}, {'full' if bucket.level.fits else 'passes'} in {bucket.level.reset} s"


async def explain(config: Config, request: Request) -> Explanation:
    """Follow one request through a configuration. Keys are fetched, and buckets looked at, where it says."""
    async with Generations(observe=lambda _issuer, _fetched: None) as generations:
        generation = await generations.build(config)
        clocks = Clocks(time.time, time.monotonic)
        gate = Gate(generation, _Unseen(), clocks, _Unseen(), new_id=lambda: str(uuid.uuid4()))
        verdict = (await gate.check(request, lambda: None)).verdict
    if isinstance(verdict, Denied):
        return _refusal(verdict)
    passed = ("route: open to everybody",) if verdict.grant is NOBODY else tuple(CHECKS)
    return Explanation(passed, None, "", verdict, await _buckets(generation.tree, config, verdict.grant))


def _refusal(denied: Denied) -> Explanation:
    names = list(CHECKS)
    failed = next((place for place, name in enumerate(names) if denied.reason in CHECKS[name]), len(names))
    check = names[failed] if failed < len(names) else "decision"
    return Explanation(tuple(names[:failed]), denied, check, None, ())


async def _buckets(tree: Tree, config: Config, grant: Grant) -> tuple[Bucket, ...]:
    """Look at the bucket of an identity: that of a descriptor (customer_tier, customer_id)."""
    facts = {name.encode(): value.encode() for name, value in grant.metadata}
    entries = [(key, facts[key]) for key in (TIER_KEY, CUSTOMER_KEY) if key in facts]
    met = tree.match(config.rate_limits.domain.encode(), entries)
    if met is None:
        return ()
    key, tier = met.key.decode(), met.rule.limit.name
    if config.store.url == "embedded:":
        return (Bucket(tier, key, None, "its level is known to the running sidecar only: the store is embedded in it"),)
    password = config.store.password
    secret = None if password is None else password.get_secret_value()
    store = RedisStore(config.store.url, password=secret, timeout=config.store.timeout)
    try:
        answer = await store.peek([Hit(met.key, met.rule.shape, 1)])
    except StoreUnavailable as error:
        return (Bucket(tier, key, None, str(error)),)
    finally:
        await store.close()
    return (Bucket(tier, key, answer.levels[0]),)


class _Unseen:
    """The observer and the store of a decision that is only looked at."""

    def checked(self, outcome: Outcome) -> None:
        """Take no note."""

    def limited(self, limited: Limited, matches: Sequence[Match | None], seconds: float) -> None:
        """Take no note."""

    def store_failed(self, error: StoreUnavailable) -> None:
        """Take no note."""

    def failed(self, error: Exception) -> None:
        """Show the defect."""
        raise error

    async def acquire(self, hits: Sequence[Hit]) -> Answer:
        """Refuse: an explanation consumes nothing."""
        raise StoreUnavailable(f"{len(hits)} hits of an explanation")

    peek = acquire
