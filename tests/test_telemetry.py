import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genops_extauth.bucket import bucket
from genops_extauth.gate import Decided
from genops_extauth.hits import Hit, Level, Origin, Role
from genops_extauth.journal import Owed
from genops_extauth.limits import Match, Met, Rule
from genops_extauth.model import (
    Allowed,
    CurrentLimit,
    Denied,
    Grant,
    Identity,
    Limited,
    Outcome,
    Request,
    StoreUnavailable,
)
from genops_extauth.quota import Counted
from genops_extauth.reasons import Reason
from observed import ISSUER, Sidecar

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
REQUEST = Request("GET", "/v1/models", "api.example.com", {"authorization": b"Bearer " + TOKEN.encode()})
ALICE = Identity(ISSUER, "alice", {"customer_id": "alice", "team": "ml", "project": "chat"}, 2e9)


@pytest.fixture
def sidecar(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Sidecar]:
    made = Sidecar(tmp_path / "log", getattr(request, "param", "info"))
    yield made
    made.lines()


debugging = pytest.mark.parametrize("sidecar", ["debug"], indirect=True)
quiet = pytest.mark.parametrize("sidecar", ["error"], indirect=True)


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "time"}


def allowed(identity: Identity | None = ALICE) -> Outcome:
    return Outcome(Allowed(Grant(identity, (), (), ())), "abc-01", REQUEST, 0.0002)


def denied(reason: Reason, detail: str = "", request: Request | None = REQUEST) -> Outcome:
    return Outcome(Denied(reason, detail), "abc-02", request, 0.0002)


def test_every_reason_has_its_count(sidecar: Sidecar) -> None:
    """Each reason to refuse has a series, from 0 on, and a refusal counts in its own only."""
    for reason in Reason:
        assert sidecar.value("genops_check_total", verdict="denied", reason=reason.value) == 0
    for reason in Reason:
        sidecar.telemetry.checked(denied(reason))
        assert sidecar.value("genops_check_total", verdict="denied", reason=reason.value) == 1
    assert sidecar.value("genops_check_total", verdict="allowed", reason="") == 0
    assert sidecar.value("genops_check_seconds_count") == len(Reason)


def test_pass_is_silent(sidecar: Sidecar) -> None:
    """At info a pass is counted and timed, and writes nothing."""
    sidecar.telemetry.checked(allowed())
    assert sidecar.value("genops_check_total", verdict="allowed", reason="") == 1
    assert sidecar.value("genops_check_seconds_sum") == pytest.approx(0.0002)
    assert sidecar.lines() == []


def test_denial_line(sidecar: Sidecar) -> None:
    """At info a denial writes one line: why, which request, and the id that joins it with its traces."""
    sidecar.telemetry.checked(denied(Reason.TOKEN_EXPIRED, "exp is in the past"))
    assert [without_times(line) for line in sidecar.lines()] == [
        {
            "level": "info",
            "event": "check",
            "verdict": "denied",
            "decision_id": "abc-02",
            "seconds": 0.0002,
            "reason": "token_expired",
            "detail": "exp is in the past",
            "method": "GET",
            "path": "/v1/models",
            "host": "api.example.com",
        }
    ]


@debugging
def test_pass_line(sidecar: Sidecar) -> None:
    """At debug a pass writes one line, which says on whose account."""
    sidecar.telemetry.checked(allowed())
    sidecar.telemetry.checked(allowed(identity=None))
    known, nobody = sidecar.lines()
    assert (known["level"], known["verdict"]) == ("debug", "allowed")
    assert (known["issuer"], known["customer_id"], known["team"]) == (ISSUER, "alice", "ml")
    assert (nobody["verdict"], nobody["path"]) == ("allowed", "/v1/models")
    assert "customer_id" not in nobody


def test_unreadable_request(sidecar: Sidecar) -> None:
    """A request that could not be read is counted and logged without what it did not tell."""
    sidecar.telemetry.checked(denied(Reason.REQUEST_MALFORMED, request=None))
    (line,) = sidecar.lines()
    assert line["reason"] == "request_malformed"
    assert not {"method", "path", "host"} & set(line)


@quiet
def test_our_own_faults_are_loud(sidecar: Sidecar) -> None:
    """A denial that is our fault, not the client's, is logged even where only errors are."""
    for reason in (Reason.TOKEN_EXPIRED, Reason.INTERNAL):
        sidecar.telemetry.checked(denied(reason))
    assert [line["reason"] for line in sidecar.lines()] == ["internal"]


def test_keys_outage_warns(sidecar: Sidecar) -> None:
    """Refusing for want of keys is a warning."""
    sidecar.telemetry.checked(denied(Reason.KEYS_UNAVAILABLE))
    assert [line["level"] for line in sidecar.lines()] == ["warning"]


@debugging
def test_no_secret_is_logged(sidecar: Sidecar) -> None:
    """Headers are never logged, and a token in the path is taken out."""
    request = Request("GET", f"/callback/{TOKEN}", "h", REQUEST.headers)
    sidecar.telemetry.checked(denied(Reason.TOKEN_EXPIRED, request=request))
    sidecar.telemetry.checked(allowed())
    sidecar.lines()
    text = sidecar.path.read_text()
    assert "/callback/[redacted]" in text
    assert "eyJ" not in text
    assert "authorization" not in text.lower()


def test_hostile_values(sidecar: Sidecar) -> None:
    """What a client sent cannot break a line, reach a terminal or fill the disk."""
    request = Request("GET\x1b[2J", "/" + "a" * 5000, "h\nlevel=info", {})
    sidecar.telemetry.checked(denied(Reason.CREDENTIALS_MISSING, request=request))
    (line,) = sidecar.lines()
    assert line["method"] == "GET\\x1b[2J"
    assert line["host"] == "h\\nlevel=info"
    assert len(line["path"]) == 256


def test_flood_is_sampled(sidecar: Sidecar) -> None:
    """A flood of one reason writes few lines, counts all, and the next second's line says how many were left out."""
    for _ in range(2200):
        sidecar.telemetry.checked(denied(Reason.TOKEN_EXPIRED))
    sidecar.telemetry.checked(denied(Reason.CREDENTIALS_MISSING))
    sidecar.now += 1
    sidecar.telemetry.checked(denied(Reason.TOKEN_EXPIRED))
    lines = sidecar.lines()
    assert len(lines) == 100 + 2 + 1 + 1
    assert lines[-2]["reason"] == "credentials_missing"
    assert sum(line.get("suppressed", 0) for line in lines) == sidecar.value("genops_log_sampled_total") == 2098
    assert sidecar.value("genops_check_total", verdict="denied", reason="token_expired") == 2201


FREE = Rule(CurrentLimit(100, "hour", "free"), bucket(100, 3600), b"tb3600")
UNCONFIGURED = Rule(CurrentLimit(5, "minute", "gone", periods=2), bucket(5, 120), b"tb120")
SHADOW = Rule(CurrentLimit(1, "hour", "free"), bucket(1, 3600), b"tb3600", shadow=True)
KEY = b"genops:{genops|customer_tier=free|customer_id=c1}:tb3600"


def match(*rules: Rule, key: bytes = b"genops:{x}", defaulted: bool = False) -> Match:
    return Match(tuple(Met(rule, key) for rule in rules), ("genops", "x"), defaulted=defaulted)


def decided(*matches: Match | None, over: tuple[Rule, ...] = (), origin: Origin = Origin.STORE) -> Decided:
    """A decision in which the limits of `over` were exhausted."""
    counted = []
    for place, one in enumerate(matches):
        for met in one.met if one else ():
            role = Role.MAY if met.rule.shadow else Role.MUST
            level = Level(fits=False, remaining=0, reset=36) if met.rule in over else Level(True, 7, 36)  # noqa: FBT003
            assert one is not None
            counted.append(Counted(place, one, met, Hit(met.key, met.rule.meter_at(0), 1, role), level))
    refused = any(not each.level.fits and not each.met.rule.shadow for each in counted)
    return Decided(b"genops", matches, Limited(refused, ()), counted, origin, 0.001)


def test_limit_counts(sidecar: Sidecar) -> None:
    """Rate limit decisions count by code and by a tier of the configuration, others together, and no limit as none."""
    cases: list[tuple[Rule | None, bool, str]] = [
        (FREE, False, "free"),
        (FREE, True, "free"),
        (UNCONFIGURED, False, "other"),
        (None, False, "none"),
    ]
    for rule, over, tier in cases:
        one = decided(None) if rule is None else decided(match(rule), over=(rule,) if over else ())
        sidecar.telemetry.limited(one)
        code = "over_limit" if over else "ok"
        assert sidecar.value("genops_rate_limit_total", code=code, tier=tier) == 1
    assert sidecar.value("genops_rate_limit_total", code="over_limit", tier="premium") == 0
    assert sidecar.value("genops_rate_limit_seconds_count") == len(cases)


def test_limits_count_for_themselves(sidecar: Sidecar) -> None:
    """Each limit that was met counts its hits, beside the decision that they were asked for."""
    sidecar.telemetry.limited(decided(match(FREE), over=(FREE,)))
    ((series, counts),) = sidecar.metrics.limits.series()
    assert (series, counts.total_hits, counts.over_limit) == (("genops", "x"), 1, 1)


def test_refusal_line(sidecar: Sidecar) -> None:
    """A rate limit refusal writes one line, about the limit that refused, and says who decided."""
    matches = (match(SHADOW), match(UNCONFIGURED), match(FREE, key=KEY))
    sidecar.telemetry.limited(decided(*matches, over=(SHADOW, FREE), origin=Origin.MEMORY))
    sidecar.telemetry.limited(decided(match(FREE)))
    assert [without_times(line) for line in sidecar.lines()] == [
        {
            "level": "info",
            "event": "rate_limit",
            "code": "over_limit",
            "tier": "free",
            "limit": "100/hour",
            "remaining": 0,
            "reset": 36,
            "bucket": "genops:{genops|customer_tier=free|customer_id=c1}:tb3600",
            "by": "memory",
            "seconds": 0.001,
        }
    ]


@debugging
def test_limit_pass_line(sidecar: Sidecar) -> None:
    """At debug a rate limit pass writes a line, if it met a limit; one over several units says how many."""
    sidecar.telemetry.limited(decided(None, match(FREE)))
    sidecar.telemetry.limited(decided(None))
    sidecar.telemetry.limited(decided(match(UNCONFIGURED)))
    first, second = sidecar.lines()
    assert (first["code"], first["tier"], first["remaining"], first["by"]) == ("ok", "free", 7, "store")
    assert second["limit"] == "5/2 minutes"


def test_defaulted_tier(sidecar: Sidecar) -> None:
    """A descriptor whose tier is unknown or missing is counted, as the default tier's besides."""
    sidecar.telemetry.limited(decided(match(FREE, defaulted=True)))
    assert sidecar.value("genops_tier_defaulted_total") == 1
    assert sidecar.value("genops_rate_limit_total", code="ok", tier="free") == 1


def test_limits_that_came(sidecar: Sidecar) -> None:
    """Limits are counted as loaded or refused, wherever they come from, and the log says what is in force."""
    sidecar.telemetry.limits_loaded(["d.tier: is one bucket"])
    sidecar.telemetry.limits_received("7", ())
    sidecar.telemetry.limits_received("8", ["no such unit", "duplicate key"])
    sidecar.telemetry.limits_lost("UNAVAILABLE: gone", 1.25)
    sidecar.telemetry.reloaded(error="tiers: two of one name")
    assert sidecar.metrics.limits.loads == {"config_load_success": 2, "config_load_error": 2}
    remark, received, refused, lost, _ = sidecar.lines()
    assert (remark["level"], remark["event"], remark["detail"]) == ("warning", "limit_remark", "d.tier: is one bucket")
    assert (received["level"], received["event"], received["version"]) == ("info", "limits_received", "7")
    assert (refused["level"], refused["detail"]) == ("error", "no such unit; duplicate key")
    assert refused["in_force"] == "the limits before"
    assert (lost["level"], lost["event"], lost["again_in"]) == ("warning", "limits_not_watched", 1.2)


def test_what_the_store_says(sidecar: Sidecar) -> None:
    """What operators should know of a store is said, and so are charges that are lost at the end."""
    sidecar.telemetry.store_said("the primary of redis+sentinel://a/m is b:6379 now")
    sidecar.telemetry.charges_lost(Owed(keys=2, charges=5, refunds=1))
    said, lost = sidecar.lines()
    assert (said["event"], said["detail"]) == ("store_changed", "the primary of redis+sentinel://a/m is b:6379 now")
    assert (lost["level"], lost["buckets"], lost["charges"], lost["refunds"]) == ("error", 2, 5, 1)


def test_store_outage(sidecar: Sidecar) -> None:
    """Store failures count by kind, and the log says so once a second."""
    for _ in range(50):
        sidecar.telemetry.store_failed(StoreUnavailable("timeout: the store redis://h:1/0 did not answer in time"))
    sidecar.telemetry.store_failed(StoreUnavailable("whatever else it may say"))
    assert sidecar.value("genops_store_errors_total", kind="timeout") == 50
    assert sidecar.value("genops_store_errors_total", kind="other") == 1
    assert sidecar.metrics.limits.failures["redis_error"] == 51
    sidecar.now += 1
    sidecar.telemetry.store_failed(StoreUnavailable("unreachable: gone"))
    lines = sidecar.lines()
    assert [line["level"] for line in lines] == ["warning", "warning"]
    assert lines[1]["detail"] == "unreachable: gone"
    assert lines[1]["suppressed"] == 50


def test_defect(sidecar: Sidecar) -> None:
    """A defect of ours is counted and logged with its traceback, from which tokens are taken out."""
    with pytest.raises(KeyError) as caught:
        raise KeyError(f"no such thing: {TOKEN}")
    for _ in range(2):
        sidecar.telemetry.failed(caught.value)
    assert sidecar.value("genops_internal_errors_total") == 2
    (line,) = sidecar.lines()
    assert (line["level"], line["event"], line["error"]) == ("error", "internal_error", "KeyError")
    assert "test_telemetry.py" in line["exception"]
    assert TOKEN not in line["exception"]


def test_keys_fetched(sidecar: Sidecar) -> None:
    """Fetches of keys count by issuer and result, and a failed one is a warning."""
    sidecar.telemetry.keys_fetched(ISSUER)
    sidecar.telemetry.keys_fetched(ISSUER, error="timeout", detail="took over 5 s")
    sidecar.telemetry.keys_fetched("https://not.configured", error="connect")
    assert sidecar.value("genops_jwks_fetch_total", issuer=ISSUER, result="ok") == 1
    assert sidecar.value("genops_jwks_fetch_total", issuer=ISSUER, result="failed") == 1
    assert sidecar.value("genops_jwks_fetch_total", issuer="other", result="failed") == 1
    first, _ = sidecar.lines()
    assert (first["level"], first["issuer"], first["error"]) == ("warning", ISSUER, "timeout")


def test_reloads(sidecar: Sidecar) -> None:
    """A bad reload is an error, shows in a gauge until a good one, and does not renew the time of loading."""
    assert sidecar.value("genops_config_last_reload_successful") == 1
    sidecar.now = 200.0
    sidecar.telemetry.reloaded(error="tiers: two of one name")
    assert sidecar.value("genops_config_last_reload_successful") == 0
    assert sidecar.value("genops_config_last_reload_success_timestamp_seconds") == 100.0
    sidecar.telemetry.reloaded(remarks=["d.tier: is one bucket"])
    assert sidecar.value("genops_config_last_reload_successful") == 1
    assert sidecar.value("genops_config_last_reload_success_timestamp_seconds") == 200.0
    assert sidecar.value("genops_config_reload_total", result="ok") == 1
    assert sidecar.value("genops_config_reload_total", result="failed") == 1
    assert [(line["level"], line["event"]) for line in sidecar.lines()] == [
        ("error", "config_refused"),
        ("info", "config_reloaded"),
        ("warning", "limit_remark"),
    ]


def test_instances_are_apart(tmp_path: Path) -> None:
    """Two sidecars in one process count for themselves."""
    one, two = (Sidecar(tmp_path / name, "info") for name in "ab")
    one.telemetry.checked(allowed())
    assert one.value("genops_check_total", verdict="allowed", reason="") == 1
    assert two.value("genops_check_total", verdict="allowed", reason="") == 0
    assert one.lines() == two.lines() == []


def test_passing_is_cheap(sidecar: Sidecar) -> None:
    """Counting a pass costs less than 10 us even on a busy machine (0.4 us when it is idle)."""
    outcome = allowed()
    best = min(timeit.repeat(lambda: sidecar.telemetry.checked(outcome), number=1000, repeat=20)) / 1000
    assert best < 10e-6
