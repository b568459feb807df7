"""What a configuration means, as `check-config` says it."""

import math
from pathlib import Path
from textwrap import dedent

import pytest

from genops_extauth import config
from genops_extauth.declared import Descriptor, Domain, Limit
from genops_extauth.limit_compiler import compile_tree
from genops_extauth.limit_rules import Settings
from genops_extauth.summary import exposure, summary

EXAMPLE = Path(__file__).parents[1] / "genops.example.yaml"
LIMITS_ALONE = "server: {services: [rate_limits]}\n"


class Folder:
    """A folder with a configuration, and files of limits in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "limits").mkdir()

    def told(self, text: str) -> list[str]:
        (self.path / "genops.yaml").write_text(text)
        return list(summary(config.load(self.path / "genops.yaml", {})))

    def limits(self, text: str, name: str = "limits.yaml") -> str:
        (self.path / "limits" / name).write_text(dedent(text))
        return LIMITS_ALONE + "rate_limits: {directory: limits}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_the_summary_says_what_a_configuration_means() -> None:
    """The summary names addresses, store, issuers, tiers, open routes, and what an outage of the store may cost."""
    assert summary(config.load(EXAMPLE, {})) == (
        "listens on 127.0.0.1:50051 (gRPC), 127.0.0.1:8080 (HTTP); store embedded:",
        (
            "believes https://auth.example.com for genops-ai-api (RS256, keys from "
            "https://auth.example.com/.well-known/jwks.json): tiers free, standard, premium"
        ),
        "revoked: 0 listed here, and what the store lists",
        "requires team, project, customer_id; defaults customer_tier=free",
        "open to everybody: GET /healthz",
        "everything else: one of jwt",
        "tier free: 100/hour, 20 at once",
        "tier standard: 1000/hour, 1000 at once",
        "tier premium: 10000/hour, 2000 at once",
        "unknown tier: as free; no identity: 60/minute, 60 at once by address",
        (
            "store away: a process grants 10% of each bucket by itself, then refuses, unless the limit says otherwise; "
            "at worst, with 1 process:"
        ),
        "  genops.customer_tier_free.customer_id: 2 of one bucket",
        "  genops.customer_tier_standard.customer_id: 100 of one bucket",
        "  genops.customer_tier_premium.customer_id: 200 of one bucket",
        "  genops.remote_address: 6 of one bucket",
        "  genops.masked_remote_address: 6 of one bucket",
    )


SEED = """\
    domain: seed
    descriptors:
      - key: customer_tier
        value: free
        rate_limit: {unit: minute, requests_per_unit: 10}
    """


def test_the_limits_of_a_directory_are_told(folder: Folder) -> None:
    """Each limit of the files stands there, and what may not mean what it says: a tier alone is one bucket for all."""
    told = folder.told(folder.limits(SEED))

    assert "all limits, those of limits included:" in told
    assert "  seed.customer_tier_free: unit=MINUTE requests_per_unit=10, shadow_mode: false, quota_mode: false" in told
    assert (
        "note: seed.customer_tier_free: is one bucket, for all customers together; for one each, write the key "
        "customer_id below it"
    ) in told
    assert not any(line.startswith(("tier ", "unknown tier", "believes")) for line in told)


def test_what_an_outage_may_cost_is_told(folder: Folder) -> None:
    """Each limit has its worst case over all processes; a limit that is open then lets everything pass."""
    limits = """\
    domain: d
    descriptors:
      - {key: a, rate_limit: {unit: minute, requests_per_unit: 100}}
      - {key: b, rate_limit: {unit: minute, requests_per_unit: 100, outage: open}}
      - {key: c, rate_limit: {unit: minute, requests_per_unit: 100, outage_allowance: 7}}
      - {key: d, rate_limit: {unit: minute, requests_per_unit: 100, outage_allowance: 1000}}
      - {key: e, rate_limit: {unit: month, requests_per_unit: 100, calendar: UTC, outage_allowance: 1000}}
      - {key: f, rate_limit: {unlimited: true}}
      - {key: g, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 100}}
      - {key: h, rate_limit: {unit: minute, requests_per_unit: 0, outage: open, outage_allowance: 7}}
    """
    told = folder.told(folder.limits(limits) + "store: {outage: {allowance: 12.5%, then: open, processes: 3}}\n")
    place = next(number for number, line in enumerate(told) if line.startswith("store away: "))

    assert told[place].startswith(
        "store away: a process grants 12.5% of each bucket by itself, then lets everything pass,"
    )
    assert told[place].endswith(" at worst, with 3 processes:")
    assert told[place + 1 :] == [*(f"  d.{name}: everything passes" for name in "abcde"), "  d.h: 0 of one bucket"]
    told = folder.told(folder.limits(limits) + "store: {outage: {allowance: 12.5%, processes: 3}}\n")
    assert told[place + 1 :] == [
        "  d.a: 36 of one bucket",
        "  d.b: everything passes",
        "  d.c: 21 of one bucket",
        "  d.d: 300 of one bucket",
        "  d.e: 300 of one bucket",
        "  d.h: 0 of one bucket",
    ]


def test_very_many_limits_are_cut_off(folder: Folder) -> None:
    """Of more limits than a screen holds the first are told, and how many more there are."""
    limits = folder.limits("domain: d\ndescriptors:\n" + "".join(
        f"  - {{key: k, value: v{number}, rate_limit: {{unit: hour, requests_per_unit: 5}}}}\n" for number in range(60)
    ))  # fmt: skip

    assert folder.told(limits).count("  ... and 10 more") == 2


def test_modes_places_and_sources_are_told(folder: Folder) -> None:
    """Modes of the whole service, the debug port, a second store and a management server are named."""
    told = folder.told(
        LIMITS_ALONE.replace("]}", "], debug: 127.0.0.1:6070}")
        + "rate_limits: {shadow_mode: true, quota_mode: true, xds: {server: 'eg:18001', node_id: me}}\n"
        + "store: {url: redis://genops@a, per_second: {url: b}}\n"
    )

    assert told[:4] == [
        (
            "listens on 127.0.0.1:50051 (gRPC), 127.0.0.1:8080 (HTTP), 127.0.0.1:6070 (debug pages); "
            "store redis://genops@a:6379/0, for limits per second redis://b:6379/0"
        ),
        "limits given by eg:18001, to the node me",
        "shadow mode: nobody is refused",
        "quota mode: a request is refused only where all its limits are exhausted",
    ]


def test_only_what_is_served_is_told(folder: Folder) -> None:
    """Where identity alone is served, nothing is said of limits."""
    told = folder.told(
        "identity: {jwt: [{issuer: i, audiences: [a], keys: {jwks_uri: https://a/}}]}\nserver: {services: [identity]}\n"
    )
    assert [line.partition(" ")[0] for line in told] == ["listens", "believes", "revoked:", "requires", "everything"]


def test_a_descriptor_with_several_limits_grants_what_each_does() -> None:
    """Of several limits on one descriptor the one that grants least decides; of places of one name, the worst."""
    per_day, per_second = Limit(1000, "day", outage_allowance=100), Limit(20, "second", outage="open")
    both = Descriptor("a", "b_c", (per_day, per_second))
    same_name = Descriptor("a_b", "c", (per_second,))

    assert exposure(compile_tree([Domain("d", (both,))], Settings()), 2) == {"d.a_b_c": 200}
    assert exposure(compile_tree([Domain("d", (both, same_name))], Settings()), 2) == {"d.a_b_c": math.inf}


def test_the_worst_case_of_what_clients_name() -> None:
    """A limit whose counters are named after what clients send has one worst case, under the name it is declared by."""
    limit = Descriptor("customer", "", (Limit(100, "hour"),), detailed_metric=True)

    assert exposure(compile_tree([Domain("d", (limit,))], Settings(open_after=True)), 1) == {"d.customer": math.inf}
