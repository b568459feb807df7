"""What a rate limit request hits, and what becomes of it; `test_limit_model` asks the same of any request."""

import copy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from genops_extauth.declared import Descriptor as Declared
from genops_extauth.declared import Domain, Limit
from genops_extauth.hits import NOTHING_ASKED, Book, Role
from genops_extauth.limit_compiler import compile_tree
from genops_extauth.limit_headers import response_headers
from genops_extauth.limit_rules import Settings
from genops_extauth.model import UNLIMITED, Descriptor, Limited, Override, Telling
from genops_extauth.quota import AS_DECLARED, Counted, Modes, asked, limited, refusing, would_refuse

NOW = 1_795_514_430_000_000  # 2026-11-24, 10:00:30 UTC
MONTHLY = Limit(1, "month", calendar="Europe/Berlin")


@dataclass
class Service:
    """A limiter at a clock that stands still: what is declared, one key for each descriptor, the value any."""

    declared: tuple[Declared, ...]
    modes: Modes = AS_DECLARED
    book: Book = field(default_factory=Book)

    def __post_init__(self) -> None:
        self.tree = compile_tree([Domain("d", self.declared)], Settings())
        self.counted: list[Counted] = []
        self.matches: Any = ()

    def ask(self, *descriptors: Descriptor, hits: int = 0) -> Limited:
        question = asked(self.tree, b"d", descriptors, hits, modes=self.modes, now=NOW)
        answer = self.book.transact(question.hits, NOW) if question.hits else NOTHING_ASKED
        told, self.counted = limited(question, answer, self.modes)
        self.matches = question.matches
        return told

    def spend(self, *keys: str) -> None:
        """Take one token at a time from each, until it is over."""
        for key in keys:
            while not self.ask(on(key)).statuses[0].over:
                pass


def service(modes: Modes = AS_DECLARED, **limits: Any) -> Service:
    """Each key has one limit, or a tuple of them, or is declared as it stands."""
    return Service(tuple(_declared(key, value) for key, value in limits.items()), modes)


def _declared(key: str, value: Any) -> Declared:
    if isinstance(value, Declared):
        return value
    return Declared(key, limits=value if isinstance(value, tuple) else (value,))


def quota(key: str, *limits: Limit, **flags: Any) -> Declared:
    return Declared(key, limits=limits, quota_mode=True, **flags)


def on(key: str, hits: int | None = None, **more: Any) -> Descriptor:
    return Descriptor(((key.encode(), b"v"),), hits, **more)


def charge(key: str, hits: int | None = None) -> Descriptor:
    return Descriptor(((key.encode(), b"v"), (b"genops_phase", b"charge")), hits)


def left(answer: Limited) -> list[int]:
    return [status.remaining for status in answer.statuses]


def over(answer: Limited) -> list[bool]:
    return [status.over for status in answer.statuses]


@pytest.mark.parametrize(
    ("own", "hits", "taken"),
    [(None, 0, 1), (None, 3, 3), (2, 3, 2), (0, 3, 0)],
    ids=["unset", "request", "own", "look"],
)
def test_how_many_hits_a_descriptor_adds(own: int | None, hits: int, taken: int) -> None:
    """A descriptor's own addend wins, 0 too, which only looks; else the request's counts, and where it has none, 1."""
    assert left(service(a=Limit(9, "hour")).ask(on("a", own), hits=hits)) == [9 - taken]


def test_addends_of_any_size_are_counted() -> None:
    """The largest addend that a gateway can write is over every limit, and takes nothing."""
    limiter = service(a=Limit(9, "hour"))

    assert over(limiter.ask(on("a", 2**64 - 1))) == [True]
    assert left(limiter.ask(on("a", 0))) == [9]


def test_a_look_at_what_is_exactly_spent_passes_where_requests_are_charged() -> None:
    """Where requests are charged before they pass, a look asks for nothing more (the reference's contract)."""
    limiter = service(a=Limit(1, "hour"))
    limiter.ask(on("a"))

    assert not limiter.ask(on("a", 0)).over


def test_a_look_at_what_is_exactly_spent_is_refused_where_responses_are_charged() -> None:
    """Where the cost comes after the response, at least 1 must be left: else a spent limit would admit one more."""
    limiter = service(a=Limit(1, "hour", charge="response"))

    assert left(limiter.ask(on("a", 0))) == [1]
    limiter.ask(on("a", 1))
    assert limiter.ask(on("a", 0)).over


@pytest.mark.parametrize(("own", "hits"), [(5, 0), (None, 5)])
def test_a_stated_cost_of_a_response_is_always_charged(own: int | None, hits: int) -> None:
    """What was used up is charged in full though it does not fit, and stands as debt against what comes."""
    limiter = service(a=Limit(3, "hour", charge="response"))
    charged = limiter.ask(on("a", own), hits=hits)

    assert (charged.over, left(charged)) == (False, [0])
    assert limiter.ask(on("a", 0)).statuses[0].reset == 3600  # 2 owed, and 1 to be left: 3 at 3 an hour


def test_a_request_without_an_addend_is_a_question_where_responses_are_charged() -> None:
    """Whoever states no cost asks for one hit, and is refused where it does not fit: not every route reports usage."""
    limiter = service(a=Limit(1, "hour", charge="response"))

    assert [limiter.ask(on("a")).over for _ in range(2)] == [False, True]


def test_a_charge_by_its_phase_counts_on_the_bucket_of_the_request() -> None:
    """An entry that says so makes any limit's hit a charge, and is no part of the key."""
    limiter = service(a=Limit(3, "hour"))
    limiter.ask(charge("a", 5))

    assert [counted.hit.role for counted in limiter.counted] == [Role.CHARGE]
    assert limiter.ask(on("a")).over


def test_a_charge_counts_beside_a_refusal() -> None:
    """A request that is refused takes nothing, but what it reports as used is charged."""
    limiter = service(a=Limit(9, "hour"), b=Limit(0, "hour"), c=Limit(9, "hour"))

    assert limiter.ask(charge("a", 2), on("b"), on("c")).over
    assert left(limiter.ask(on("a", 0), on("c", 0))) == [7, 9]


def test_a_refund_gives_back_where_the_limit_allows_it() -> None:
    """A refund fills up to the limit and no further, and passes."""
    limiter = service(a=Limit(3, "hour", allow_refund=True))
    limiter.spend("a")

    assert left(limiter.ask(on("a", 2, refund=True))) == [2]
    assert left(limiter.ask(on("a", 9, refund=True))) == [3]


def test_a_refund_changes_nothing_where_the_limit_does_not_allow_it() -> None:
    """It neither gives back nor takes, and passes, in debt too: envoyproxy/ratelimit refuses no refund."""
    limiter = service(a=Limit(3, "hour"))
    limiter.ask(charge("a", 5))
    answer = limiter.ask(on("a", 2, refund=True))

    assert (answer.over, over(answer), left(answer)) == (False, [False], [0])
    assert limiter.ask(on("a", 0)).over


def test_a_refused_request_takes_nothing_anywhere() -> None:
    """Where one descriptor is over, the others keep what they had, and say so."""
    limiter = service(a=Limit(1, "hour"), b=Limit(9, "hour"))
    limiter.spend("a")

    assert left(limiter.ask(on("b"), on("a"))) == [9, 0]


def test_replaced_limits_are_not_met() -> None:
    """A limit that another one of the request names is not asked, nor told; alone, it is."""
    limiter = service(a=Limit(0, "hour", name="n"), b=Limit(5, "hour", replaces=("n",)))

    assert limiter.ask(on("a")).over
    answer = limiter.ask(on("a"), on("b"))
    assert not answer.over
    assert [status.limit is None for status in answer.statuses] == [True, False]


def test_an_unlimited_limit_replaces_others() -> None:
    """What is unlimited takes nothing, says so, and frees from the limits that it names."""
    limiter = service(a=Limit(0, "hour", name="n"), b=Limit(unlimited=True, replaces=("n",)))
    answer = limiter.ask(on("a"), on("b"))

    assert (answer.over, left(answer), answer.told) == (False, [0, UNLIMITED], None)
    assert limiter.book.states == {}


def test_a_limit_that_a_descriptor_brings_along_is_plain() -> None:
    """It rules in the place of the configured one, on its bucket, and knows neither shadow mode nor a name."""
    limiter = service(a=Declared("a", limits=(Limit(9, "hour", name="n"),), shadow_mode=True))
    limiter.ask(on("a", 4))
    answer = limiter.ask(on("a", 1, override=Override(1, "hour")))

    assert answer.over
    assert answer.statuses[0].limit is not None
    assert answer.statuses[0].limit.name == ""


def test_one_bucket_has_one_size_in_a_request() -> None:
    """Where two descriptors of one path bring limits along, the smaller one holds for both, in any order."""
    large, small = on("a", override=Override(9, "hour")), on("a", override=Override(2, "hour"))

    for descriptors in ((large, small), (small, large)):
        limiter = service(a=Limit(5, "hour"))
        assert left(limiter.ask(*descriptors)) == [0, 0]
        assert limiter.ask(*descriptors).over


def test_a_descriptor_of_several_limits_needs_room_in_each() -> None:
    """All of them are asked at once; its status is that of the one that refuses, else of the one with least left."""
    limiter = service(a=(Limit(2, "second"), Limit(3, "day")))

    assert [limiter.ask(on("a", hits)).statuses[0].limit.unit for hits in (1, 1)] == ["second", "second"]  # type: ignore[union-attr]  # one was met
    limiter.book.states = {key: state for key, state in limiter.book.states.items() if b"tb86400" in key}
    assert left(limiter.ask(on("a", 0))) == [1]
    refused = limiter.ask(on("a", 2))
    assert (refused.over, refused.statuses[0].limit.unit) == (True, "day")  # type: ignore[union-attr]  # as above
    assert left(limiter.ask(on("a", 1))) == [0]


def test_shadowed_limits_refuse_nothing() -> None:
    """A limit in shadow mode that is over is told as passing, with nothing left; those beside it count as ever."""
    limiter = service(a=Declared("a", limits=(Limit(0, "hour"),), shadow_mode=True), b=Limit(5, "hour"))
    answer = limiter.ask(on("a"), on("b"))

    assert (answer.over, over(answer), left(answer)) == (False, [False, False], [0, 4])


def test_some_exhausted_quotas_refuse_nothing() -> None:
    """While one quota has room the request passes, and the exhausted ones say that they are over."""
    limiter = service(a=quota("a", Limit(1, "hour")), b=quota("b", Limit(2, "hour")))
    limiter.spend("a")
    answer = limiter.ask(on("a"), on("b"))

    assert (answer.over, over(answer), left(answer)) == (False, [True, False], [0, 1])


def test_all_exhausted_quotas_refuse() -> None:
    """Once all are exhausted the request is refused, and can pass when the first of them has room again."""
    limiter = service(a=quota("a", Limit(1, "hour")), b=quota("b", Limit(1, "day")))
    limiter.spend("a", "b")
    answer = limiter.ask(on("a"), on("b"))

    assert (answer.over, over(answer), answer.retry) == (True, [True, True], 3600)


@pytest.mark.parametrize(
    "passing",
    [on("s"), charge("r", 1), on("r", 1, refund=True)],
    ids=["shadow", "charge", "refund"],
)
def test_a_quota_that_cannot_be_over_lets_the_others_pass(passing: Descriptor) -> None:
    """Quotas that a shadowed limit, a charge or a refund is on are not over, so that not all of them are."""
    limiter = service(
        a=quota("a", Limit(0, "hour")),
        s=quota("s", Limit(0, "hour"), shadow_mode=True),
        r=quota("r", Limit(5, "hour")),
    )

    assert limiter.ask(on("a")).over
    answer = limiter.ask(on("a"), passing)
    assert (answer.over, over(answer)) == (False, [True, False])


def test_in_global_quota_mode_what_meets_no_limit_passes_as_a_quota() -> None:
    """A descriptor without a limit, or whose limit is replaced, is a quota with room; an unlimited one is none."""
    limiter = service(
        Modes(quota=True),
        a=Limit(0, "hour"),
        n=Limit(0, "hour", name="n"),
        u=Limit(unlimited=True),
        w=Limit(unlimited=True, replaces=("n",)),
    )

    assert limiter.ask(on("a")).over
    assert not limiter.ask(on("a"), on("strange")).over
    assert not limiter.ask(on("a"), on("n"), on("w")).over
    assert limiter.ask(on("a"), on("u")).over


@pytest.mark.parametrize("modes", [Modes(), Modes(quota=True)], ids=["own", "global"])
def test_a_descriptor_of_several_limits_is_no_quota(modes: Modes) -> None:
    """Each of its limits must have room, whatever quotas there are: a spent day is spent though the second has room."""
    limiter = service(modes, a=quota("a", Limit(5, "second"), Limit(0, "day")), b=quota("b", Limit(5, "hour")))

    assert limiter.ask(on("a"), on("b")).over


def test_a_limit_refuses_whatever_quotas_have() -> None:
    """A limit that is no quota refuses alone; clients hear of it, and when it has room, not of the spent quotas."""
    limiter = service(
        a=Limit(1, "minute", body="slower"),
        q=quota("q", Limit(0, "day", body="no")),
        r=quota("r", Limit(5, "day")),
    )
    limiter.spend("a")
    answer = limiter.ask(on("q"), on("a"), on("r"))

    assert (answer.over, answer.told, answer.retry, answer.body) == (True, 1, 60, b"slower")
    assert [counted.place for counted in refusing(limiter.counted)] == [1]


def test_clients_hear_of_the_last_limit_that_refuses() -> None:
    """Of several that refuse, the last one is told, with its body; the request could pass once all have room."""
    limiter = service(a=Limit(1, "day", body="first"), b=Limit(1, "hour", body="last"))
    limiter.spend("a", "b")
    answer = limiter.ask(on("a"), on("b"))

    assert (answer.told, answer.body, answer.retry) == (1, b"last", 86_400)


def test_clients_hear_of_the_limit_with_least_left() -> None:
    """Where none refuses it is the first with least left, quota or not."""
    limiter = service(a=Limit(9, "hour"), b=quota("b", Limit(3, "hour")), c=Limit(3, "day"))

    assert limiter.ask(on("strange"), on("a"), on("b"), on("c")).told == 2


def test_an_exhausted_calendar_quota_says_when_it_renews() -> None:
    """The refusal of a calendar's limit names its unit, and when the next one begins, in its time zone."""
    limiter = service(a=MONTHLY, b=Limit(5, "hour"))
    limiter.spend("a")
    answer = limiter.ask(on("b"), on("a"))

    assert answer.quota == ("month", "2026-12-01T00:00:00+01:00")
    assert limiter.ask(on("b")).quota is None


def test_of_several_limits_the_body_is_that_of_the_one_told() -> None:
    """Where two limits of a descriptor refuse, body and quota are of the one that its status shows: the longest."""
    limiter = service(a=(MONTHLY, Limit(1, "minute", body="minute")))
    limiter.spend("a")
    answer = limiter.ask(on("a"))

    assert answer.statuses[0].limit is not None
    assert answer.statuses[0].limit.unit == "month"
    assert (answer.body, answer.quota is None) == (None, False)


def test_in_global_shadow_mode_nothing_is_refused() -> None:
    """All requests pass, and each status says what it would have been."""
    limiter = service(Modes(shadow=True), a=Limit(0, "hour"), b=Limit(5, "hour"))
    answer = limiter.ask(on("a"), on("b"))

    assert (answer.over, over(answer), left(answer), answer.told) == (False, [True, False], [0, 4], 0)
    assert would_refuse(limiter.counted, limiter.matches, limiter.modes)
    limiter.ask(on("b"))
    assert not would_refuse(limiter.counted, limiter.matches, limiter.modes)


def test_both_global_modes_together() -> None:
    """In shadow and quota mode a request would be refused where all quotas are exhausted, and none passes without."""
    limiter = service(Modes(shadow=True, quota=True), a=Limit(0, "hour"))
    limiter.ask(on("a"))
    assert would_refuse(limiter.counted, limiter.matches, limiter.modes)
    limiter.ask(on("a"), on("strange"))
    assert not would_refuse(limiter.counted, limiter.matches, limiter.modes)


def test_metadata_of_what_passed_is_merged() -> None:
    """What limits that passed say is merged deeply, the first one wins, and the configuration stays as it is."""
    said: Any = [
        {"a": {"b": {"c": 1}, "x": 1}},
        {"a": {"b": {"c": 2, "d": 3}, "x": 2}, "e": 4},
        {"a": 5, "f": 6},
        {"g": 7},
        {"h": 8},
    ]
    kept = copy.deepcopy(said)
    limiter = service(
        Modes(metadata=True),
        a=Declared("a", limits=(Limit(5, "hour"),), metadata=said[0]),
        b=Declared("b", limits=(Limit(5, "hour"),), metadata=said[1]),
        c=Declared("c", limits=(Limit(5, "hour"),), metadata=said[2]),
        z=quota("z", Limit(0, "hour"), metadata=said[3]),
        u=Declared("u", limits=(Limit(unlimited=True),), metadata=said[4]),
    )
    answer = limiter.ask(on("a"), on("strange"), on("z"), on("b"), on("c"), on("u"), charge("z"))

    assert answer.metadata == {"a": {"b": {"c": 1, "d": 3}, "x": 1}, "e": 4, "f": 6, "g": 7}
    assert said == kept
    assert limiter.ask(on("z")).metadata == {}
    assert service(a=Declared("a", limits=(Limit(5, "hour"),), metadata=said[0])).ask(on("a")).metadata is None


@pytest.mark.parametrize(
    ("day", "seconds"),
    [("2026-02-10", 28 * 86_400), ("2028-02-10", 29 * 86_400), ("2026-03-10", 31 * 86_400 - 3_600)],
    ids=["February", "of a leap year", "with a day of 23 hours"],
)
def test_a_calendar_s_window_is_as_long_as_its_month(day: str, seconds: int) -> None:
    """The window of a month's quota, as clients are told of it, is as long as that month is in its time zone."""
    now = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1_000_000
    question = asked(service(a=MONTHLY).tree, b"d", [on("a")], 0, modes=AS_DECLARED, now=now)
    told, _ = limited(question, Book().transact(question.hits, now), AS_DECLARED)

    policy = dict(response_headers(told, Telling(names=(), ietf=True)))["ratelimit-policy"]
    assert policy == f'"limit-1";q=1;w={seconds}'
