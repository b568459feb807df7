"""Rate limits as they are declared: what YAML files, xDS and ``tiers`` all become before a tree is built of them.

The nouns are envoyproxy/ratelimit's (README, "Configuration"); what it lacks is marked as ours, and nobody has it who
does not ask for it. Whoever makes these values has checked them: nothing is checked here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from genops_extauth.model import Json, Unit

Algorithm = Literal["token_bucket", "fixed_window", "sliding_window"]
Charge = Literal["request", "response"]
Outage = Literal["open", "closed"]


@dataclass(frozen=True, slots=True)
class Limit:
    """One ``rate_limit``: `requests` per `periods` units.

    `unit` is None only of what is `unlimited`. Where this limit was met, those that bear a name in `replaces` are not.

    The rest is ours. `burst` hits fit at once (None: `requests`); of a token bucket only. A `calendar`, the name of
    an IANA time zone, makes the window its day, week (from Monday), month or year, and excludes another algorithm, a
    burst and several periods. `charge`: costs known only after the response; a request with addend 0 looks whether
    1 is left, and what is added later is never refused and may go into debt. `body` is the text of a refusal's body,
    None for the configuration's. `lease`: tokens that a process may take at once. `outage` and `outage_allowance`
    (tokens per bucket and process) rule while the store is away; None for the store's settings.
    """

    requests: int = 0
    unit: Unit | None = None
    unlimited: bool = False
    name: str = ""
    replaces: tuple[str, ...] = ()
    burst: int | None = None
    periods: int = 1
    algorithm: Algorithm = "token_bucket"
    calendar: str | None = None
    charge: Charge = "request"
    allow_refund: bool = False
    body: str | None = None
    lease: int = 0
    outage: Outage | None = None
    outage_allowance: int | None = None


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One step of a path: the entry `key` with `value`, or with any where that is empty; ``*`` in either is a wildcard.

    Without `limits` and `descriptors` it matches and limits nothing: a way to let one value pass. More than one limit
    is ours; all of them must have room. The flags are envoyproxy/ratelimit's; `metadata` is told of what passed.
    """

    key: str
    value: str = ""
    limits: tuple[Limit, ...] = ()
    shadow_mode: bool = False
    quota_mode: bool = False
    detailed_metric: bool = False
    value_to_metric: bool = False
    share_threshold: bool = False
    metadata: Mapping[str, Json] | None = None
    descriptors: tuple["Descriptor", ...] = ()


@dataclass(frozen=True, slots=True)
class Domain:
    """All descriptors of one `name`, in the order in which wildcards are tried.

    `backtracking` is ours: where an exact match leads to no limit, the wildcards and the bare key beside it are tried.
    `source` is the file, or the resource, that it came from.
    """

    name: str
    descriptors: tuple[Descriptor, ...] = ()
    backtracking: bool = False
    source: str = ""
