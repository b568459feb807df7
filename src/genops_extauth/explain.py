"""The path one request takes, step by step, by the very code that decides.

Nothing is consumed: buckets are looked at. The checks stand in the order in which `gate`, `tokens` and `policy` make
them, so those before the one that refused have passed, and those after it were not made. On an open route most are not.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from genops_extauth.bucket import SECOND
from genops_extauth.credential_store import CredentialStore
from genops_extauth.decision_checks import Refusals, checks
from genops_extauth.gate import Clocks, Decided, Gate, Generation
from genops_extauth.generations import Generations
from genops_extauth.hits import Answer, Hit, Level
from genops_extauth.limits import Met, Tree
from genops_extauth.logs import clean
from genops_extauth.model import Allowed, Denied, Descriptor, Grant, Outcome, Request, StoreUnavailable
from genops_extauth.refusal_table import DENIALS
from genops_extauth.settings import Config
from genops_extauth.storage import opened
from genops_extauth.store_address import Kind
from genops_extauth.store_choice import Store
from genops_extauth.store_client import open_client
from genops_extauth.tiers import CUSTOMER_KEY, TIER_KEY


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
            removed = [*grant.removed, *self.allowed.removed]
            document |= {"identity": _who(grant), "headers": dict(grant.headers), "headers_to_remove": removed}
        return document | {"buckets": [_bucket_document(bucket) for bucket in self.buckets]}


def _who(grant: Grant) -> dict[str, str] | None:
    identity = grant.identity
    if identity is None:
        return None
    return {"method": identity.method, "issuer": identity.issuer, "subject": identity.subject}


def _bucket_document(bucket: Bucket) -> dict[str, object]:
    known = {"note": bucket.note} if bucket.level is None else bucket.level._asdict()
    return {"key": bucket.key, "tier": bucket.tier, **known}


def _told(allowed: Allowed) -> Iterator[str]:
    identity = allowed.grant.identity
    # A subject is what the token says, any text. What else is told of a client has passed a check of its own.
    who = "none is asked for" if identity is None else f"{clean(identity.subject)} of {identity.issuer}"
    yield f"identity {who}"
    yield from (f"set      {name}: {value}" for name, value in allowed.grant.headers)
    yield from (f"remove   {name} (sent by the client)" for name in allowed.removed)
    yield f"remove   {', '.join(allowed.grant.removed)} (always)"


def _state(bucket: Bucket) -> str:
    if bucket.level is None:
        return bucket.note
    verdict = f"{bucket.level.remaining} left" if bucket.level.fits else "over the limit"
    return f"{verdict}, {'full' if bucket.level.fits else 'passes'} in {bucket.level.reset} s"


_CLOCKS = Clocks(time.time, time.monotonic)
_PATIENCE = 5.0
"""Seconds: a person waits."""


async def explain(config: Config, request: Request, *, store: str | None = None, folder: Path = Path()) -> Explanation:
    """Follow one request through a configuration, whose files are in `folder`. Keys are fetched where it says.

    Buckets are looked at where it says, or in the `store` at a URL: nobody else knows where a running sidecar's
    embedded one is.
    """
    async with AsyncExitStack() as stack:
        credentials = await _credentials(config, folder, store, stack)
        generations = await stack.enter_async_context(Generations(lambda _issuer, _fetched: None, credentials))
        generation = await generations.build(config)
        if credentials is not None and credentials.listens:
            await credentials.feed.look()
        gate = Gate(generation, _Unseen(), _CLOCKS, _Unseen(), new_id=lambda: str(uuid.uuid4()))
        verdict = (await gate.check(request, lambda: _PATIENCE)).verdict
    passed = _checks_of(generation, request)
    if isinstance(verdict, Denied):
        return _refusal(verdict, passed)
    buckets = await _buckets(generation.tree, config, verdict.grant, folder, store)
    return Explanation(tuple(passed), None, "", verdict, buckets)


async def _credentials(config: Config, folder: Path, url: str | None, stack: AsyncExitStack) -> CredentialStore | None:
    """Open what the store keeps of credentials; nobody else knows where a running sidecar's embedded one is."""
    place = config.store.target(folder, url)
    if place.kind is Kind.EMBEDDED:
        return None
    client = open_client(place, _PATIENCE)
    stack.push_async_callback(client.aclose)
    credentials = CredentialStore(client, config.store.key_prefix, _CLOCKS, max_wait=0.0, tell=lambda _: None)
    stack.push_async_callback(credentials.close)
    return credentials


def _checks_of(generation: Generation, request: Request) -> Mapping[str, Refusals]:
    policy = generation.policy
    route = policy.route(request)
    found = (name for name in route.accepts if name != "anonymous" and name in generation.authenticators)
    method = next((name for name in found if generation.authenticators[name].presented(request)), None)
    return checks(route, method, unasked=policy.unasked(route, request))


def _refusal(denied: Denied, passed: Mapping[str, Refusals]) -> Explanation:
    for refusal in ((denied.reason, denied.detail), denied.reason):
        for place, (check, refusals) in enumerate(passed.items()):
            if refusal in refusals:
                return Explanation(tuple(passed)[:place], denied, check, None, ())
    return Explanation((), denied, "decision", None, ())


async def _buckets(tree: Tree, config: Config, grant: Grant, folder: Path, url: str | None) -> tuple[Bucket, ...]:
    """Look at the buckets of an identity: those of a descriptor (customer_tier, customer_id)."""
    facts = {name.encode(): value.encode() for name, value in grant.metadata}
    entries = [(key, facts[key]) for key in (TIER_KEY, CUSTOMER_KEY) if key in facts]
    match = tree.match(config.rate_limits.domain.encode(), Descriptor(tuple(entries)))
    met = [each for each in match.met if not each.rule.unlimited] if match is not None else []
    place = config.store.target(folder, url)
    if place.kind is Kind.EMBEDDED:
        return tuple(Bucket(each.rule.limit.name, each.key.decode(), None, _EMBEDDED) for each in met)
    store = opened(config.store, folder, place)
    try:
        return tuple([await _looked_at(each, store) for each in met])
    finally:
        await store.close()


async def _looked_at(met: Met, store: Store) -> Bucket:
    """Look at one bucket; without its level, say why."""
    meter = met.rule.meter_at(int(time.time() * SECOND))
    level, note = None, ""
    try:
        level = (await store.transact([Hit(met.key, meter, 1, look=True)])).levels[0]
    except StoreUnavailable as error:
        note = str(error)
    return Bucket(met.rule.limit.name, met.key.decode(), level, note)


_EMBEDDED = "its level is in the running sidecar's own store: add --store with the URL in its `listening` line"


class _Unseen:
    """The observer and the store of a decision that is only looked at."""

    def checked(self, outcome: Outcome) -> None:
        """Take no note."""

    def limited(self, decided: Decided) -> None:
        """Take no note."""

    def store_failed(self, error: StoreUnavailable) -> None:
        """Take no note."""

    def failed(self, error: Exception) -> None:
        """Show the defect."""
        raise error

    async def transact(self, hits: Sequence[Hit], within: float | None = None) -> Answer:
        """Refuse: an explanation consumes nothing."""
        raise StoreUnavailable(f"{len(hits)} hits of an explanation, whose caller waits {within}")
