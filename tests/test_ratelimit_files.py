"""envoyproxy/ratelimit's YAML files, with and without the keys that are ours."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.declared import Descriptor, Domain, Limit
from genops_extauth.go_yaml import resolved
from genops_extauth.problems import MAX_PROBLEMS, ConfigError, Problem
from genops_extauth.ratelimit_files import Loaded, Parsed, combine, load, parse_file, read_directory
from genops_extauth.ratelimit_keys import KEYS

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "vectors" / "ratelimit.yaml").read_text())[
    "cases"
]
REFUSED = [case for case in CASES if "load_error" in case["tags"]]
# The last one is about a server that has no valid configuration.
LOADED = [case for case in CASES if case not in REFUSED and case["name"] != "error_no_config_loaded"]


def loaded(case: dict[str, Any]) -> tuple[Loaded, tuple[Problem, ...]]:
    files = {file["file"]: file["yaml"].encode() for file in case["config"]}
    return load(files, merge_domains=case.get("env", {}).get("MERGE_DOMAIN_CONFIG") == "true")


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
def test_what_envoyproxy_refuses_is_refused_in_its_words(case: dict[str, Any]) -> None:
    """Each shared case of a load error is one here, and a problem holds the reference's text."""
    text = case.get("expected_load_error") or case["expected_load_error_prefix"]
    _, problems = loaded(case)

    assert any(text in str(problem) for problem in problems)
    assert all("; " in problem.message for problem in problems)  # what to write instead


@pytest.mark.parametrize("case", LOADED, ids=lambda case: case["name"])
def test_what_envoyproxy_loads_is_loaded(case: dict[str, Any]) -> None:
    """Every other file of the shared cases loads, and nothing in it surprises."""
    found, problems = loaded(case)

    assert problems == found.warnings == ()
    assert {each.name for each in found.domains} == {yaml.safe_load(file["yaml"])["domain"] for file in case["config"]}


def one(text: str) -> Parsed:
    return parse_file("x.yaml", text.encode())


def only(text: str) -> Descriptor:
    """The first descriptor of a file that is right."""
    parsed = one(f"domain: d\ndescriptors:\n- {text}\n")
    assert parsed.problems == ()
    assert parsed.domain is not None
    return parsed.domain.descriptors[0]


def limit(text: str) -> Limit:
    return only(f"key: k\n  rate_limit: {{{text}}}").limits[0]


def test_everything_that_envoyproxy_has_is_read() -> None:
    """All sixteen keys of envoyproxy/ratelimit arrive where they belong."""
    parsed = one(
        "---\n"
        "domain: d\n"
        "descriptors:\n"
        "- key: k\n"
        "  value: v*\n"
        "  shadow_mode: true\n"
        "  quota_mode: on\n"
        "  detailed_metric: yes\n"
        "  value_to_metric: True\n"
        "  share_threshold: true\n"
        "  metadata: {burst: [1, two, {three: 3.5}], 'x': '010', y: yes, z: ~}\n"
        "  rate_limit: {unit: HOUR, requests_per_unit: 1_0, name: n, replaces: [{name: a}, {name: b}]}\n"
        "  descriptors:\n"
        "  - key: below\n"
        "    rate_limit: {unlimited: true, requests_per_unit: 3}\n"
        "  - key: let through\n"
        "    descriptors: null\n"
        "    rate_limit:\n"
    )

    assert parsed.problems == parsed.warnings == ()
    assert parsed.domain == Domain(
        "d",
        (
            Descriptor(
                "k",
                "v*",
                (Limit(10, "hour", name="n", replaces=("a", "b")),),
                shadow_mode=True,
                quota_mode=True,
                detailed_metric=True,
                value_to_metric=True,
                share_threshold=True,
                metadata={"burst": [1, "two", {"three": 3.5}], "x": "010", "y": True, "z": None},
                descriptors=(
                    Descriptor("below", limits=(Limit(3, unlimited=True),)),
                    Descriptor("let through"),
                ),
            ),
        ),
        source="x.yaml",
    )


@pytest.mark.parametrize("text", ["8080", "true", "0x10", "010", "2026-01-01", "'1.5'", "1.2.3", "no"])
def test_a_value_is_the_text_that_was_written(text: str) -> None:
    """Unquoted whole numbers, booleans and dates are what was written, as keys, values and names."""
    found = only(f"key: {text}\n  value: {text}\n  rate_limit: {{unit: day, requests_per_unit: 1, name: {text}}}")

    assert {found.key, found.value, found.limits[0].name} == {text.strip("'")}


@pytest.mark.parametrize(
    ("text", "requests"),
    [("0", 0), ("4294967295", 2**32 - 1), ("1_000", 1000), ("0x10", 16), ("0b11", 3), ("+5", 5), ("~", 0), ("", 0)],
)
def test_a_number_may_be_in_any_notation_of_go(text: str, requests: int) -> None:
    """requests_per_unit is what go-yaml makes of it, to 2^32 - 1; without a value it is 0."""
    assert limit(f"unit: day, requests_per_unit: {text}").requests == requests


@pytest.mark.parametrize(
    ("text", "line", "path", "message"),
    [
        ("", None, "domain", "config file cannot have empty domain"),
        ("[]", None, "", "cannot unmarshal !!seq into map[interface {}]interface {}; write domain:"),
        ("domain: [d]", 1, "domain[0]", "yaml file contains list of type other than map: d"),
        ("domain: {key: d}", 1, "domain", "cannot unmarshal !!map into string"),
        (
            "domain: d\n\tx",
            2,
            "",
            "error loading config file: yaml: line 2: found a tab character that violates indentation",
        ),
        ("domain: 'd", 1, "", "error loading config file: yaml: line 1: found unexpected end of stream"),
        ("domain: d\ndescriptors: x", 2, "descriptors", "!!str `x` into []config.YamlDescriptor; write a list"),
        ("domain: d\ndescriptors: {key: k}", 2, "descriptors", "cannot unmarshal !!map into []config.YamlDescriptor"),
        ("domain: d\ndescriptors:\n- key: k\n-", 4, "descriptors[1]", "list of type other than map: <nil>"),
        ("domain: d\ndescriptors:\n- value: v", 3, "descriptors[0].key", "descriptor has empty key"),
        ("domain: d\ndescriptors:\n- {key: a, value: b}\n- {key: a_b}", 4, "descriptors[1].key", "key 'd.a_b'"),
        ("domain: d\ndescriptor: []", 2, "descriptor", "unknown key 'descriptor'; did you mean descriptors?"),
        ("domain: d\nburst: 1", 2, "burst", "unknown key 'burst'; write it in rate_limit"),
        ("domain: d\nzzz: 1", 2, "zzz", "allowed here: domain, descriptors, backtracking, charge"),
        ("domain: d\non: 1", 2, "on", "config error, key is not of type string: true"),
        ("domain: d\nvalue: {foo: 1}", 2, "value.foo", "unknown key 'foo'"),
        ("domain: d\nvalue: [{key: 1.5}]", 2, "value[0].key", "error checking config"),
        ("domain: d\nbacktracking: yes", 2, "backtracking", "write true or false"),
        ("domain: d\ncharge: later", 2, "charge", "write request or response"),
    ],
)
def test_what_is_wrong_with_a_file(text: str, line: int | None, path: str, message: str) -> None:
    """What is wrong above the limits is told with its line and path, in the reference's words, with the fix."""
    parsed = one(text)
    problem = next(each for each in parsed.problems if each.path == path)

    assert (problem.file, problem.line) == ("x.yaml", line)
    assert message in problem.message
    assert problem.message.startswith("x.yaml: ")
    assert parsed.domain is None


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        (
            "unit: day, requests_per_unit: 4294967296",
            "requests_per_unit",
            "cannot unmarshal !!int `4294967296` into uint32",
        ),
        ("unit: day, requests_per_unit: '5'", "requests_per_unit", "cannot unmarshal !!str `5` into uint32"),
        ("unit: day, requests_per_unit: true", "requests_per_unit", "cannot unmarshal !!bool `true` into uint32"),
        ("unit: day, requests_per_unit: 1.5", "requests_per_unit", "error checking config; write a whole number"),
        ("unit: day, requests_per_unit: {}", "requests_per_unit", "cannot unmarshal !!map into uint32"),
        ("unit: 1.5, requests_per_unit: 1", "unit", "error checking config"),
        ("unit: [], requests_per_unit: 1", "unit", "cannot unmarshal !!seq into string"),
        ("unit: days, requests_per_unit: 1", "unit", "invalid rate limit unit 'days'; write second, minute"),
        ("unit: unknown, requests_per_unit: 1", "unit", "invalid rate limit unit 'unknown'"),
        ("unlimited: 1", "unlimited", "cannot unmarshal !!int `1` into bool"),
        ("unlimited: 'true'", "unlimited", "cannot unmarshal !!str `true` into bool; write true or false, without"),
        ("unlimited: true, replaces: [{name: }]", "replaces[0].name", "should not have an empty replaces entry"),
        ("unlimited: true, replaces: [a]", "replaces[0]", "list of type other than map: a"),
        ("unlimited: true, burst: 5", "burst", "says nothing of what is unlimited: leave it out"),
        ("unit: day, requests_per_unit: 9, burst: many", "burst", "must be a whole number"),
        ("unit: day, requests_per_unit: 9, burst: [1]", "burst", "write one value here"),
        ("unit: day, requests_per_unit: 9, burst: 0", "burst", "write at least 1"),
        ("unit: day, requests_per_unit: 0, burst: 5", "burst", "leave its burst out"),
        ("unit: year, unit_multiplier: 99, requests_per_unit: 4294967291, burst: 4294967291", "burst", "2^53"),
        ("unit: day, requests_per_unit: 9, burst: 5, algorithm: fixed_window", "burst", "a fixed_window has no burst"),
        (
            "unit: day, requests_per_unit: 9, algorithm: gcra",
            "algorithm",
            "token_bucket or fixed_window or sliding_window",
        ),
        ("unit: day, requests_per_unit: 9, unit_multiplier: 0", "unit_multiplier", "write at least 1"),
        ("unit: year, requests_per_unit: 9, unit_multiplier: 300", "unit_multiplier", "at most 285 years"),
        ("unit: day, requests_per_unit: 9, per: 1h", "unit", "keep per or unit"),
        ("unit_multiplier: 3, requests_per_unit: 9, per: 1h", "unit_multiplier", "keep per or unit_multiplier"),
        ("per: 500ms, requests_per_unit: 9", "per", "write whole seconds"),
        ("per: 30, requests_per_unit: 9", "per", "a number needs its unit"),
        ("unit: month, requests_per_unit: 9, calendar: Europe/Atlantis", "calendar", "no such time zone"),
        ("unit: month, requests_per_unit: 9, calendar: ../passwd", "calendar", "no such time zone"),
        ("unit: hour, requests_per_unit: 9, calendar: UTC", "calendar", "days, weeks, months and years"),
        ("unit: day, requests_per_unit: 9, calendar: UTC, burst: 5", "burst", "leave it or calendar out"),
        ("unit: day, requests_per_unit: 9, calendar: UTC, algorithm: fixed_window", "algorithm", "or calendar out"),
        ("unit: day, requests_per_unit: 9, calendar: UTC, unit_multiplier: 2", "unit_multiplier", "or calendar out"),
        ("unit: day, requests_per_unit: 9, charge: never", "charge", "write request or response"),
        ("unit: day, requests_per_unit: 9, allow_refund: 1", "allow_refund", "write true or false"),
        ("unit: day, requests_per_unit: 9, lease: 10", "lease", "must be at most 9"),
        ("unit: day, requests_per_unit: 9, lease: 9, algorithm: fixed_window", "lease", "only a token bucket can be"),
        ("unit: day, requests_per_unit: 9, lease: 9, calendar: UTC", "lease", "only a token bucket can be leased"),
        ("unit: day, requests_per_unit: 9, outage: maybe", "outage", "write open or closed"),
        ("unit: day, requests_per_unit: 9, outage_allowance: 10%", "outage_allowance", "must be a whole number"),
        (f"unit: day, requests_per_unit: 9, body: {'x' * 4097}", "body", "at most 4096 bytes"),
        ("unit: day, requests_per_unit: 9, bursts: 1", "bursts", "did you mean burst?"),
    ],
)
def test_what_is_wrong_with_a_limit(text: str, key: str, message: str) -> None:
    """What is wrong with a limit is told once, at its key, with the fix."""
    parsed = one(f"domain: d\ndescriptors:\n- key: k\n  rate_limit: {{{text}}}\n")

    assert [(each.path, each.line) for each in parsed.problems] == [(f"descriptors[0].rate_limit.{key}", 4)]
    assert message in parsed.problems[0].message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unit: day, requests_per_unit: 9, burst: 20", Limit(9, "day", burst=20)),
        ("unit: minute, requests_per_unit: 9, unit_multiplier: 5", Limit(9, "minute", periods=5)),
        ("per: 30s, requests_per_unit: 9", Limit(9, "second", periods=30)),
        ("per: 1h30m, requests_per_unit: 9", Limit(9, "minute", periods=90)),
        ("per: 168h, requests_per_unit: 9", Limit(9, "week")),
        (
            "per: 5m, requests_per_unit: 9, algorithm: sliding_window",
            Limit(9, "minute", periods=5, algorithm="sliding_window"),
        ),
        ("unit: month, requests_per_unit: 9, calendar: Europe/Berlin", Limit(9, "month", calendar="Europe/Berlin")),
        ("unit: day, requests_per_unit: 9, charge: response", Limit(9, "day", charge="response")),
        ("unit: day, requests_per_unit: 9, allow_refund: true", Limit(9, "day", allow_refund=True)),
        ("unit: day, requests_per_unit: 9, body: 'no more'", Limit(9, "day", body="no more")),
        ("unit: day, requests_per_unit: 9, lease: 9", Limit(9, "day", lease=9)),
        (
            "unit: day, requests_per_unit: 9, outage: open, outage_allowance: 3",
            Limit(9, "day", outage="open", outage_allowance=3),
        ),
    ],
)
def test_our_keys_are_read(text: str, expected: Limit) -> None:
    """Each of our keys arrives in the limit; a period is in the largest unit that fits."""
    assert limit(text) == expected


def test_a_descriptor_may_have_several_limits() -> None:
    """`rate_limits` holds as many as are wanted, each of another period or way to count."""
    found = only(
        "key: k\n  rate_limits:\n"
        "  - {unit: second, requests_per_unit: 10}\n"
        "  - {unit: day, requests_per_unit: 250}\n"
        "  - {unit: day, requests_per_unit: 250, calendar: UTC}"
    )

    assert found.limits == (Limit(10, "second"), Limit(250, "day"), Limit(250, "day", calendar="UTC"))


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("rate_limit: {unlimited: true}\n  rate_limits: []", "rate_limits", "write all limits into this list"),
        (
            "rate_limits: [{unit: minute, requests_per_unit: 1}, {per: 60s, requests_per_unit: 2}]",
            "rate_limits[1].unit",
            "write a different unit",
        ),
        ("rate_limits: [{unlimited: true}]", "rate_limits[0].unlimited", "write it in rate_limit"),
        ("rate_limits: {unit: day}", "rate_limits", "write a list here"),
        ("metadata: [1]", "metadata[0]", "list of type other than map"),
        ("metadata: x", "metadata", "cannot unmarshal !!str `x` into map[string]interface {}"),
        ("metadata: {a: [.nan]}", "metadata.a[0]", "error parsing metadata: JSON has no such number"),
        ("share_threshold: true", "share_threshold", "but found key 'k'"),
        ("requests_per_units: 1", "requests_per_units", "unknown key"),
    ],
)
def test_what_is_wrong_with_a_descriptor(text: str, path: str, message: str) -> None:
    """What is wrong with a descriptor is told at its key, with the fix."""
    parsed = one(f"domain: d\ndescriptors:\n- key: k\n  {text}\n")

    assert f"descriptors[0].{path}" in [each.path for each in parsed.problems]
    assert any(message in each.message for each in parsed.problems)


def test_a_file_may_say_how_its_limits_are_charged() -> None:
    """The charge at the top holds for the limits of the file that do not say otherwise, and are limits."""
    parsed = one(
        "domain: d\ncharge: response\nbacktracking: true\ndescriptors:\n"
        "- {key: a, rate_limit: {unit: day, requests_per_unit: 1}}\n"
        "- {key: b, rate_limit: {unit: day, requests_per_unit: 1, charge: request}}\n"
        "- {key: c, rate_limit: {unlimited: true}}\n"
    )
    assert parsed.domain is not None

    assert [each.limits[0].charge for each in parsed.domain.descriptors] == ["response", "request", "request"]
    assert parsed.domain.backtracking


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "- key: k\n  rate_limit: {unlimited: true, shadow_mode: true}",
            4,
            "does nothing here: write it in a descriptor",
        ),
        ("- key: k\n  unit: day", 4, "does nothing here: write it in rate_limit"),
        ("- key: k\n  rate_limit: {unit: day}", 4, "counts as 0: every request is over the limit"),
        ("- key: k\n  rate_limit: {unlimited: true, unit: never}", 4, "says nothing of what is unlimited"),
        ("- key: k\n  rate_limit: {unit: day, requests_per_unit: 010}", 4, "read as octal: 8"),
        ("- key: a\n  key: k", 4, "the last one counts"),
        ("- key: k\n---\ndomain: e", 4, "is not read"),
    ],
)
def test_what_loads_but_surprises_is_a_warning(text: str, line: int, message: str) -> None:
    """What envoyproxy/ratelimit loads without a word, though it means something else, loads with a warning."""
    parsed = one(f"domain: d\ndescriptors:\n{text}\n")

    assert parsed.problems == ()
    assert [each.line for each in parsed.warnings] in ([line], [line + 1])
    assert message in parsed.warnings[0].message


def test_all_problems_are_told_up_to_a_hundred() -> None:
    """Everything that is wrong is told at once, in the order of the file, and no more than anybody reads."""
    few = one("domain: d\ndescriptors:\n- key: 1.5\n  foo: 1\n- rate_limit: {unit: x}\n  bar: 2\n")
    many = "domain: d\ndescriptors:\n" + "- bar: 1\n" * 300

    assert [each.line for each in few.problems] == [3, 4, 5, 5, 6]
    assert len(one(many).problems) == MAX_PROBLEMS
    _, problems = load({"a": many.encode(), "b": many.encode()})
    assert len(problems) == MAX_PROBLEMS + 1
    assert "there may be more" in problems[-1].message


def test_anchors_and_merging_save_writing() -> None:
    """Limits may be written once: an alias stands for them, and << lays one mapping under another."""
    parsed = one(
        "domain: d\ndescriptors:\n"
        "- &a\n  key: a\n  rate_limit: &limit {unit: minute, requests_per_unit: 5}\n"
        "- {key: b, rate_limit: *limit}\n"
        "- {<<: *a, key: c}\n"
        "- {<<: *a, key: d, rate_limit: {requests_per_unit: 7}}\n"
    )
    assert parsed.domain is not None

    assert [(each.key, each.limits) for each in parsed.domain.descriptors] == [
        ("a", (Limit(5, "minute"),)),
        ("b", (Limit(5, "minute"),)),
        ("c", (Limit(5, "minute"),)),
        ("d", (Limit(7, "minute"),)),
    ]


def test_domains_merge_where_that_is_allowed() -> None:
    """Files of one domain become one, in the order of their names; a descriptor of both is a problem of the second."""
    files = {
        "b/y.yaml": b"domain: d\nbacktracking: true\ndescriptors:\n- key: y\n",
        "a.yaml": b"domain: d\ndescriptors:\n- key: a\n",
        "c.yaml": b"domain: other\ndescriptors:\n- key: a\n",
    }
    found, problems = load(files, merge_domains=True)

    assert problems == ()
    assert found.domains == (
        Domain("d", (Descriptor("a"), Descriptor("y")), backtracking=True, source="a.yaml, b.y.yaml"),
        Domain("other", (Descriptor("a"),), source="c.yaml"),
    )
    _, problems = load({**files, "z.yaml": b"domain: d\ndescriptors:\n- key: q\n- key: y\n"}, merge_domains=True)
    assert len(problems) == 1
    assert str(problems[0]) == (
        "z.yaml:4: descriptors[1].key: z.yaml: duplicate descriptor composite key 'd.y'; "
        "it is in b/y.yaml too: keep one of the two"
    )


def test_domains_that_came_by_another_way_combine_too() -> None:
    """What has no text, as what came by xDS, is combined by the same rules."""
    parsed = [Parsed("one", Domain("d", source="one")), Parsed("two", Domain("d", source="two"))]
    domains, problems = combine(parsed)

    assert domains == (Domain("d", source="one"),)
    assert "two: duplicate domain 'd' in config file; it is in one too" in str(problems[0])
    assert combine(parsed, merge_domains=True) == ((Domain("d", source="one, two"),), ())


def test_a_directory_is_read_or_told_of_at_once(tmp_path: Path) -> None:
    """All problems of all files are in one error, each with its file where it really is."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.yaml").write_text("domain: x\ndescriptors:\n- value: v\n")
    (tmp_path / "README.md").write_text("domain: 'x\n")
    (tmp_path / "good.yaml").write_text("domain: d\n")
    with pytest.raises(ConfigError) as caught:
        read_directory(tmp_path)
    readme, sub = map(str, caught.value.problems)

    assert readme.startswith(f"{tmp_path}/README.md:")
    assert "every file here is read: move it away" in readme
    assert sub.startswith(f"{tmp_path}/sub/x.yaml:3: descriptors[0].key: sub.x.yaml: descriptor has empty key")
    (tmp_path / "sub" / "x.yaml").write_text("domain: x\nkey: k\n")
    (tmp_path / "README.md").unlink()
    found = read_directory(tmp_path)
    assert [each.name for each in found.domains] == ["d", "x"]
    assert [each.file for each in found.warnings] == [f"{tmp_path}/sub/x.yaml"]


def test_an_empty_directory_is_no_error(tmp_path: Path) -> None:
    """Nothing is declared by no files: that is a warning."""
    found = read_directory(tmp_path)

    assert found.domains == ()
    assert "holds no files" in str(found.warnings[0])


def test_a_file_may_be_larger_than_our_configuration() -> None:
    """A file of more than a megabyte, and many aliases, loads."""
    first = "domain: d\ndescriptors:\n- {key: k, value: first, rate_limit: &limit {unit: day, requests_per_unit: 5}}\n"
    text = first + "".join(f"- {{key: k, value: '{n:0>150}', rate_limit: *limit}}\n" for n in range(6000))
    parsed = one(text)

    assert len(text) > 1024 * 1024
    assert parsed.problems == ()


@given(
    st.binary()
    | st.text(alphabet="ab:-[]{},&*!|>'<~#.%@1 \t\n").map(str.encode)
    | st.lists(
        st.sampled_from(
            [*KEYS, *"{}[],\n", ": ", ": ", ":\n", "- ", "\n  ", "d", "1.5", "010", "day", "*a", "&a ", "<<"]
        )
    ).map(lambda parts: "".join(parts).encode())
)
def test_any_bytes_are_a_domain_or_problems(data: bytes) -> None:
    """Any bytes give a domain or problems, never both and never neither; nothing is raised."""
    parsed = parse_file("x.yaml", data)

    assert (parsed.domain is None) == bool(parsed.problems)


# PyYAML writes 1e3 without quotes, which is a number to go-yaml.
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=8).filter(
    lambda text: not isinstance(resolved(text), float)
)
LIMITS: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    unit=st.sampled_from(["second", "MINUTE", "Hour", "day", "week", "month", "year"]),
    requests_per_unit=st.integers(0, 2**32 - 1),
    name=NAMES,
) | st.just({"unlimited": True})


@st.composite
def trees(draw: st.DrawFn, depth: int = 0) -> list[dict[str, Any]]:
    # No key holds the _ that joins it with its value.
    keys = NAMES.map(lambda text: f"k{text.encode().hex()}")
    names = draw(st.lists(st.tuples(keys, st.none() | NAMES), max_size=3, unique=True))
    return [
        {
            "key": key,
            **({} if value is None else {"value": value}),
            **({"rate_limit": draw(LIMITS)} if draw(st.booleans()) else {}),
            "shadow_mode": draw(st.booleans()),
            **({"descriptors": draw(trees(depth + 1))} if depth < 2 and draw(st.booleans()) else {}),
        }
        for key, value in names
    ]


def meant(tree: list[dict[str, Any]]) -> tuple[Descriptor, ...]:
    return tuple(
        Descriptor(
            each["key"],
            each.get("value", ""),
            tuple(
                Limit(
                    found.get("requests_per_unit", 0),
                    found["unit"].lower() if "unit" in found else None,
                    unlimited="unlimited" in found,
                    name=found.get("name", ""),
                )
                for found in [each["rate_limit"]]
            )
            if "rate_limit" in each
            else (),
            shadow_mode=each["shadow_mode"],
            descriptors=meant(each.get("descriptors", [])),
        )
        for each in tree
    )


@given(NAMES, trees())
def test_what_is_written_is_declared(name: str, tree: list[dict[str, Any]]) -> None:
    """Whatever tree PyYAML writes, safe from being taken for something else, is declared as it was."""
    parsed = one(yaml.safe_dump({"domain": name, "descriptors": tree}, allow_unicode=True))

    assert parsed.problems == ()
    assert parsed.domain == Domain(name, meant(tree), source="x.yaml")
