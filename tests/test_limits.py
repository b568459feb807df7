"""Which limits a descriptor meets, their keys and their series: the reference's cases, and a model of its rules."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth import limits, ratelimit_files
from genops_extauth.declared import Descriptor, Domain, Limit
from genops_extauth.limit_compiler import LimitsError, compile_tree
from genops_extauth.limit_rules import Settings
from genops_extauth.limits import Entries, Match, Node, Tree
from genops_extauth.model import Descriptor as Asked
from genops_extauth.model import Override, Unit

HOUR = Limit(10, "hour")


def tree(*descriptors: Descriptor, backtracking: bool = False, **settings: Any) -> Tree:
    return compile_tree([Domain("d", descriptors, backtracking=backtracking)], Settings(**settings))


def match(of: Tree, *entries: tuple[str, str], override: Override | None = None) -> Match | None:
    asked = tuple((key.encode(), value.encode()) for key, value in entries)
    return of.match(b"d", Asked(asked, override=override))


def names(met: Match | None) -> list[str]:
    return [] if met is None else [each.rule.limit.name for each in met.met]


def keys(met: Match | None) -> list[bytes]:
    return [] if met is None else [each.key for each in met.met]


# The reference's own cases, at the level of the tree.

UNITS: dict[str, Unit] = {name.upper(): name for name in ("second", "minute", "hour", "day", "week", "month", "year")}
CASES = [
    case
    for case in yaml.safe_load((Path(__file__).parent / "vectors" / "ratelimit.yaml").read_text())["cases"]
    if {"matching", "wildcard", "share_threshold", "units", "metrics", "override"} & set(case["tags"])
    and not {"shadow", "quirk", "upstream_crash"} & set(case["tags"])
]


def loaded(case: dict[str, Any]) -> Tree:
    files = {file["file"]: file["yaml"].encode() for file in case["config"]}
    found, problems = ratelimit_files.load(files, merge_domains=True)
    assert not problems
    return compile_tree(found.domains, Settings())


def asked(request: dict[str, Any]) -> Iterator[Asked]:
    overrides = request.get("descriptor_limits") or [None] * len(request["descriptors"])
    for entries, over in zip(request["descriptors"], overrides, strict=True):
        override = None if over is None else Override(over["requests_per_unit"], UNITS[over["unit"]])
        yield Asked(tuple((each["key"].encode(), each["value"].encode()) for each in entries), override=override)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_references_cases_meet_their_limits(case: dict[str, Any]) -> None:
    """Each descriptor meets the limit that the reference says, in a bucket and a series shared with those it says."""
    made, hits = loaded(case), Counter[bytes]()
    for step in case["steps"]:
        series = {name.rpartition(".")[0] for name in step["expected"].get("metrics_delta", ())}
        domain = step["request"]["domain"].encode()
        for one, status in zip(asked(step["request"]), step["expected"]["statuses"], strict=True):
            met = made.match(domain, one)
            if status["current_limit"] is None:
                assert met is None or met.met[0].rule.unlimited
                continue
            assert met is not None
            told = met.met[0].rule.limit
            due = status["current_limit"]
            assert (told.requests_per_unit, told.unit.upper(), told.name) == (
                due["requests_per_unit"],
                due["unit"],
                due.get("name", ""),
            )
            hits[met.met[0].key] += 1
            assert max(0, told.requests_per_unit - hits[met.met[0].key]) == status["limit_remaining"]
            if series:
                dotted = ".".join(met.series).replace(":", "_").replace("|", "_")
                assert f"ratelimit.service.rate_limit.{dotted}" in series


def test_a_domain_that_nobody_declared_is_not_known() -> None:
    """An unknown domain meets nothing, not even the limits that descriptors bring along."""
    made = tree(Descriptor("k", limits=(HOUR,)))

    assert made.match(b"other", Asked(((b"k", b"v"),), override=Override(1, "hour"))) is None
    assert made.knows(b"d")
    assert not made.knows(b"other")


# A model of the rules (research: envoyproxy/ratelimit, GetLimit), slow and obvious, against the tree.


def like(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return like(pattern[1:], text) or (bool(text) and like(pattern, text[1:]))
    return text[:1] == pattern[0] and like(pattern[1:], text[1:])


def ways(level: tuple[Descriptor, ...], key: str, value: str) -> list[Descriptor]:
    """All descriptors of a level that match an entry, best first."""
    exact = [each for each in level if each.value and (each.key, each.value) == (key, value) and "*" not in key + value]
    wild = [each for each in level if "*" in each.key + each.value and wildly(each, key, value)]
    bare = [each for each in level if not each.value and each.key == key and "*" not in each.key]
    return exact + wild + bare


def wildly(each: Descriptor, key: str, value: str) -> bool:
    if "*" in each.key:
        return like(f"{each.key}_{each.value}" if each.value else each.key, f"{key}_{value}")
    return each.key == key and like(each.value, value)


Way = list[Descriptor]


def all_ways(level: tuple[Descriptor, ...], entries: list[tuple[str, str]]) -> Iterator[Way]:
    """All ways through the tree that take all entries, in the order in which they are preferred."""
    if not entries:
        yield []
        return
    for each in ways(level, *entries[0]):
        for rest in all_ways(each.descriptors, entries[1:]):
            yield [each, *rest]


def modelled(level: tuple[Descriptor, ...], entries: list[tuple[str, str]], *, backtracking: bool) -> Way | None:
    """The way to the limits that entries meet."""
    if backtracking:
        ends = [way for way in all_ways(level, entries) if way and (way[-1].limits or not way[-1].descriptors)]
        return ends[0] if ends and ends[0][-1].limits else None
    way: Way = []
    for entry in entries:
        found = ways(level, *entry)
        if not found:
            return None
        way.append(found[0])
        level = found[0].descriptors
    return way if way and way[-1].limits else None


def bucket(way: Way, entries: list[tuple[str, str]]) -> list[tuple[str, ...]]:
    """What makes a bucket: the entries, and where a pattern is shared, the pattern instead of the value."""
    return [
        (key, "shared", each.key if "*" in each.key else "", each.value) if each.share_threshold else (key, value)
        for each, (key, value) in zip(way, entries, strict=True)
    ]


def series(way: Way, entries: list[tuple[str, str]]) -> tuple[str, ...]:
    told = ["d"]
    for each, entry in zip(way, entries, strict=True):
        runtime = each.value_to_metric or way[-1].detailed_metric
        parts = (each.key, each.value) if each.share_threshold or not runtime else entry
        told.append("_".join(part for part in parts if part))
    return tuple(told)


Flags = tuple[bool, bool, bool]
KEYS, VALUES = st.sampled_from(["a", "b", "a_b", "a*", "*"]), st.sampled_from(["", "x", "y", "b_x", "*", "x*", "*y"])


def levels(children: st.SearchStrategy[tuple[Descriptor, ...]]) -> st.SearchStrategy[tuple[Descriptor, ...]]:
    def made(entry: tuple[str, str], below: tuple[Descriptor, ...], limit: Limit | None, flags: Flags) -> Descriptor:
        return Descriptor(
            *entry,
            () if limit is None else (limit,),
            detailed_metric=flags[0],
            value_to_metric=flags[1],
            share_threshold=flags[2] and "*" in "".join(entry),
            descriptors=below,
        )

    limit = st.sampled_from([None, HOUR, Limit(5, "hour")])
    one = st.builds(made, st.tuples(KEYS, VALUES), children, limit, st.tuples(*[st.booleans()] * 3))
    return st.lists(one, max_size=5, unique_by=lambda each: (each.key, each.value)).map(tuple)


TREES = levels(levels(levels(st.just(()))))
ENTRIES = st.lists(
    st.tuples(st.sampled_from(["a", "b", "a_b", "c"]), st.sampled_from(["", "x", "y", "xy", "b_x"])), max_size=3
)


@given(TREES, ENTRIES, st.booleans())
def test_a_descriptor_meets_what_the_model_says(
    declared: tuple[Descriptor, ...],
    entries: list[tuple[str, str]],
    backtracking: bool,  # noqa: FBT001 - drawn
) -> None:
    """The tree leads where the rules do: exact, wildcards in order, bare; with backtracking, the best way that ends."""
    met = match(tree(*declared, backtracking=backtracking), *entries)
    way = modelled(declared, entries, backtracking=backtracking)

    assert (met is None) == (way is None)
    if met is not None and way is not None:
        assert met.met[0].rule.limit.requests_per_unit == way[-1].limits[0].requests
        assert met.series == series(way, entries)


def test_backtracking_ends_where_a_value_was_declared_to_pass() -> None:
    """A place without limits that leads no further lets its value pass; one that leads further is walked back from."""
    declared = (
        Descriptor("path", "/health"),
        Descriptor("path", "/v1", descriptors=(Descriptor("method", limits=(Limit(1, "hour", name="exact"),)),)),
        Descriptor("path", "/*", limits=(Limit(2, "hour", name="wildcard"),)),
    )

    for backtracking, due in ((True, ["wildcard"]), (False, [])):
        made = tree(*declared, backtracking=backtracking)
        assert match(made, ("path", "/health")) is None
        assert names(match(made, ("path", "/v1"))) == due
        assert names(match(made, ("path", "/v1"), ("method", "GET"))) == ["exact"]


@given(TREES, st.lists(ENTRIES, min_size=2, max_size=4), st.sampled_from([None, "a"]))
def test_descriptors_share_a_bucket_only_where_the_rules_say_so(
    declared: tuple[Descriptor, ...], several: list[list[tuple[str, str]]], tag: str | None
) -> None:
    """Two descriptors have one key where their entries are the same but for shared patterns, and else never."""
    made = tree(*declared, tag=tag)
    met = [
        (keys(match(made, *entries))[0], bucket(way, entries))
        for entries in several
        if (way := modelled(declared, entries, backtracking=False)) is not None
    ]

    assert all((one[0] == other[0]) == (one[1] == other[1]) for one in met for other in met)


def places(level: tuple[Descriptor, ...]) -> int:
    return sum(1 + places(each.descriptors) for each in level)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    visited: list[Node] = []
    searched = limits._searched

    def counting(node: Node, entries: Entries, depth: int) -> Node | None:
        visited.append(node)
        return searched(node, entries, depth)

    monkeypatch.setattr(limits, "_searched", counting)
    return visited


@given(TREES, st.lists(st.tuples(st.sampled_from("ab"), st.text("xy", max_size=9)), max_size=50))
def test_no_place_is_tried_twice(declared: tuple[Descriptor, ...], entries: list[tuple[str, str]]) -> None:
    """However a descriptor is made, backtracking visits each place of the tree at most once."""
    with pytest.MonkeyPatch.context() as patch:
        visited = counted(patch)
        match(tree(*declared, backtracking=True), *entries)

    assert len(visited) == len(set(map(id, visited))) <= 1 + places(declared)


def test_a_hostile_descriptor_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every pattern of every level matches and nothing ends, the work is the tree's size, not its power."""
    level: tuple[Descriptor, ...] = (Descriptor("k", "end", limits=(HOUR,)),)
    for _ in range(4):
        level = tuple(Descriptor("k", value, descriptors=level) for value in ("", "xx", "*", "x*", "*x", "x*x"))
    made = tree(*level, backtracking=True)
    visited = counted(monkeypatch)

    assert match(made, *[("k", "xx")] * 10_000) is None
    assert len(visited) == 1 + 6 + 6**2 + 6**3 + 6**4


# What is ours.


def test_backtracking_finds_the_next_best_way() -> None:
    """A catch-all beside an exact branch is met by what the exact branch does not speak of, only where asked for."""
    declared = (
        Descriptor("client", "c1", descriptors=(Descriptor("svc", "s1", limits=(Limit(1, "hour", name="one"),)),)),
        Descriptor("client", "c*", descriptors=(Descriptor("svc", "s2", limits=(Limit(1, "hour", name="two"),)),)),
        Descriptor("client", descriptors=(Descriptor("svc", limits=(Limit(1, "hour", name="all"),)),)),
    )
    made = tree(*declared, backtracking=True)

    assert [names(match(made, ("client", "c1"), ("svc", each))) for each in ("s1", "s2", "s3")] == [
        ["one"],
        ["two"],
        ["all"],
    ]
    assert names(match(tree(*declared), ("client", "c1"), ("svc", "s3"))) == []


def test_backtracking_does_not_pass_what_was_declared_to_pass() -> None:
    """A value declared without a limit passes, with backtracking too: the catch-all does not limit it."""
    made = tree(Descriptor("k", "vip"), Descriptor("k", limits=(HOUR,)), backtracking=True)

    assert match(made, ("k", "vip")) is None
    assert match(made, ("k", "other")) is not None


def test_several_limits_of_one_descriptor_have_buckets_of_their_own() -> None:
    """10 a second and 250 a day of one descriptor are two buckets, and one series."""
    made = tree(Descriptor("k", limits=(Limit(10, "second"), Limit(250, "day"), Limit(9, "day", calendar="UTC"))))
    met = match(made, ("k", "v"))

    assert keys(met) == [b"genops:{d|k=v}:tb1", b"genops:{d|k=v}:tb86400", b"genops:{d|k=v}:cal:day:UTC"]
    assert met is not None
    assert met.series == ("d", "k")


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_charge_has_the_path_of_its_request(where: int) -> None:
    """The entry genops_phase=charge, wherever it stands, is no part of the path or its key, and says the phase."""
    made = tree(Descriptor("a", descriptors=(Descriptor("b", limits=(HOUR,)),)))
    entries = [("a", "1"), ("b", "2")]
    asked, charged = match(made, *entries), match(made, *entries[:where], ("genops_phase", "charge"), *entries[where:])

    assert asked is not None
    assert asked.phase == "request"
    assert charged == asked._replace(phase="charge")


def test_any_other_phase_is_an_entry_like_others() -> None:
    """Only the value "charge" is special."""
    made = tree(Descriptor("genops_phase", limits=(HOUR,)))

    assert keys(match(made, ("genops_phase", "request"))) == [b"genops:{d|genops_phase=request}:tb3600"]


def test_an_override_replaces_the_tree() -> None:
    """A limit that a descriptor brings along stands for every rule, in the bucket of a plain one of its unit."""
    made = tree(Descriptor("k", shadow_mode=True, limits=(Limit(5, "hour", name="n"), Limit(6, "day"))))
    met = match(made, ("k", "v"), override=Override(9, "hour"))

    assert met is not None
    assert keys(met) == keys(match(made, ("k", "v")))[:1]
    assert (met.met[0].rule.limit.requests_per_unit, met.met[0].rule.shadow, names(met)) == (9, False, [""])
    assert met.series == ("d", "k_v")
    assert match(made, ("any", ""), override=Override(9, "hour")) is not None


def test_the_series_of_an_override_has_every_value() -> None:
    """An override has no place in the tree, so its series holds all that it was asked with; its charge is one too."""
    met = match(tree(), ("a", "1"), ("genops_phase", "charge"), ("b", ""), ("c", "2"), override=Override(9, "hour"))

    assert met is not None
    assert (met.series, met.phase) == (("d", "a_1", "b", "c_2"), "charge")
    assert keys(met) == [b"genops:{d|a=1|b=|c=2}:tb3600"]


def test_one_entry_can_choose_the_slot() -> None:
    """With a hash tag, all buckets of one value of that entry are in one slot; other descriptors have their path."""
    shared = Descriptor("user", "u*", share_threshold=True, limits=(HOUR,))
    made = tree(
        Descriptor("path", limits=(HOUR,), descriptors=(Descriptor("user", limits=(HOUR,)),)),
        Descriptor("user", "root", limits=(HOUR,)),
        Descriptor("user", descriptors=(Descriptor("user", limits=(HOUR,)),)),
        shared,
        tag="user",
    )

    assert keys(match(made, ("path", "/a"), ("user", "x{y"))) == [b"genops:{x%7By}d|path=/a|user=x%7By:tb3600"]
    assert keys(match(made, ("path", "/a"))) == [b"genops:{d|path=/a}:tb3600"]
    assert keys(match(made, ("user", "a"), ("user", "b"))) == [b"genops:{a}d|user=a|user=b:tb3600"]
    assert keys(match(made, ("user", "root"))) == [b"genops:{root}d|user=root:tb3600"]
    assert keys(match(made, ("user", "u1"))) == [b"genops:{~u*}d|user~u*:tb3600"]
    assert keys(match(made, ("user", "root"), override=Override(1, "hour"))) == keys(match(made, ("user", "root")))


def test_a_shared_pattern_stands_for_its_values() -> None:
    """Values that share a threshold have one key, in which the pattern stands; their series has it too."""
    made = tree(
        Descriptor("files", "files/*", share_threshold=True, detailed_metric=True, limits=(HOUR,)),
        Descriptor("dir*", share_threshold=True, limits=(HOUR,)),
    )
    one, other = match(made, ("files", "files/a")), match(made, ("files", "files/b"))

    assert one == other
    assert keys(one) == [b"genops:{d|files~files/*}:tb3600"]
    assert one is not None
    assert one.series == ("d", "files_files/*")
    assert keys(match(made, ("dirs", "x"))) == [b"genops:{d|dirs~dir*=}:tb3600"]


def test_bytes_that_are_no_text_are_matched_and_escaped() -> None:
    """What is no UTF-8 meets limits like all else; its key and its series are printable."""
    made = tree(Descriptor("k", detailed_metric=True, limits=(HOUR,)), Descriptor("k", "ü", limits=(Limit(1, "day"),)))
    met = made.match(b"d", Asked(((b"k", b"\xff\x00"),)))

    assert met is not None
    assert keys(met) == [b"genops:{d|k=%FF%00}:tb3600"]
    assert met.series == ("d", "k_\\xff\x00")
    assert keys(match(made, ("k", "ü"))) == [b"genops:{d|k=%C3%BC}:tb86400"]


def test_metadata_is_that_of_the_last_step() -> None:
    """A match carries the metadata of the descriptor it ended on, whatever its series is made of (not as upstream)."""
    below = Descriptor("b", metadata={"cost": 1}, detailed_metric=True, limits=(HOUR,))
    made = tree(Descriptor("a", metadata={"no": 1}, descriptors=(below,)))
    met = match(made, ("a", "1"), ("b", "2"))

    assert met is not None
    assert met.metadata == {"cost": 1}


def test_domains_of_one_name_become_one() -> None:
    """Files of one domain are one tree; the order of wildcards is that of the files, and any may ask to backtrack."""
    made = compile_tree(
        [
            Domain("d", (Descriptor("k", "a*", limits=(Limit(1, "hour", name="first"),)),)),
            Domain("d", (Descriptor("k", "*", limits=(Limit(1, "hour", name="second"),)),)),
            Domain("d", (Descriptor("k", "c", descriptors=(Descriptor("x", limits=(HOUR,)),)),), backtracking=True),
        ],
        Settings(),
    )

    assert [names(match(made, ("k", value))) for value in ("abc", "b", "c")] == [["first"], ["second"], ["second"]]


@pytest.mark.parametrize(
    ("descriptors", "problem"),
    [
        (
            (Descriptor("a", descriptors=(Descriptor("k", "v"), Descriptor("k", "v"))),),
            "f.yaml: duplicate descriptor composite key 'd.a.k_v'",
        ),
        (
            (Descriptor("k", limits=(Limit(1, "minute"), Limit(2, "second", periods=60))),),
            "f.yaml: 'd.k': two limits would count in one bucket: write a different unit",
        ),
        (
            (Descriptor("k", limits=(Limit(1, "day", calendar="Mars"),)),),
            "f.yaml: 'd.k': no such time zone: write an IANA name such as Europe/Berlin, or UTC",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(descriptors: tuple[Descriptor, ...], problem: str) -> None:
    """No tree is made of what contradicts itself; the error names the file, the path and what to write."""
    with pytest.raises(LimitsError) as refused:
        compile_tree([Domain("d", descriptors, source="f.yaml")], Settings())

    assert str(refused.value) == problem


def test_the_dump_has_a_line_for_each_limit() -> None:
    """/rlconfig shows every limit under its path, as envoyproxy/ratelimit writes it."""
    made = tree(
        Descriptor("a", "x*", descriptors=(Descriptor("b", limits=(Limit(3, "minute"), Limit(9, "day"))),)),
        Descriptor("c", limits=(Limit(unlimited=True),)),
    )

    assert list(made.lines()) == [
        "d.a_x*.b: unit=MINUTE requests_per_unit=3, shadow_mode: false, quota_mode: false",
        "d.a_x*.b: unit=DAY requests_per_unit=9, shadow_mode: false, quota_mode: false",
        "d.c: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false",
    ]


def test_series_that_are_known_beforehand_are_told() -> None:
    """A limit whose series does not hang on what is asked can be shown before anybody meets it."""
    made = tree(
        Descriptor("a", limits=(HOUR, Limit(5, "day"))),
        Descriptor("b", detailed_metric=True, limits=(HOUR,)),
        Descriptor("c", "x", detailed_metric=True, limits=(HOUR,)),
    )

    assert [(series, len(rules)) for series, rules in made.series()] == [(("d", "a"), 2), (("d", "c_x"), 1)]
