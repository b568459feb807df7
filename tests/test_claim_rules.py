import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.claim_rules import MAX_PATTERN_LENGTH, PatternError, Rule, contains, matches, one_of

AT = ("org", "claim")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def holds(rule: Rule, value: object) -> bool:
    return rule.holds({"org": {"claim": value}})


@pytest.mark.parametrize(
    ("rule", "met", "unmet"),
    [
        (one_of(AT, ["web"]), ["web"], ["Web", "web ", "we", "", ["web"], {"web": "web"}, None, True, 1]),
        (one_of(AT, ["a", "b"]), ["a", "b"], ["c", "ab", ["a", "b"], None]),
        (one_of(AT, [True]), [True], [1, 1.0, "true", "True", False, [True]]),
        (one_of(AT, [False]), [False], [0, "", "false", None, []]),
        (one_of(AT, ["1"]), ["1"], [1, True, 1.0, "1.0"]),
        (one_of(AT, []), [], ["", None, False]),
        (contains(AT, "ml"), [["ml"], ["a", "ml"]], ["ml", "a ml", ["mla"], [["ml"]], [], {"ml": 1}, None]),
        (contains(AT, value=True), [[True]], [[1], ["true"], True]),
        (
            matches(AT, r"[^@]+@example\.com"),
            ["a@example.com"],
            ["a@example.com.evil.test", "a@example.comx", "a@b@example.com", "a@example.com\n", ["a@example.com"]],
        ),
        (matches(AT, "a|b"), ["a", "b"], ["ab", "ax", "xb", "b\n"]),
        (matches(AT, "(?i)ops"), ["OPS"], ["ops1"]),
        (matches(AT, ".*"), ["", "\0", "é"], ["a\nb", "x" * 1025, 1, True, None]),
    ],
)  # fmt: skip
def test_a_rule_wants_a_whole_value_of_its_type(rule: Rule, met: list[object], unmet: list[object]) -> None:
    """A rule is met by whole values of the right type, and by nothing that resembles or holds them."""
    assert [value for value in met if not holds(rule, value)] == []
    assert [value for value in unmet if holds(rule, value)] == []


@pytest.mark.parametrize("claims", [{}, {"org": None}, {"org": "claim"}, {"org": {"other": "a"}}, {"claim": "a"}])
@pytest.mark.parametrize("rule", [one_of(AT, ["a", False]), contains(AT, "a"), matches(AT, ".*")])
def test_a_missing_claim_meets_no_rule(rule: Rule, claims: dict[str, object]) -> None:
    """What is not there is not right."""
    assert not rule.holds(claims)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a pattern of RE2: missing )"),
        ("a**", "not a pattern of RE2: bad repetition"),
        (r"(a)\1", "not a pattern of RE2: invalid escape sequence"),
        ("(?=a)b", "not a pattern of RE2: invalid perl operator"),
        ("(a{100}){100}", "not a pattern of RE2: invalid repetition size"),
        (r"(?:\pL{400})|(?:\pN{400})|(?:\pS{500})", "not a pattern of RE2: pattern too large"),
        ("a" * (MAX_PATTERN_LENGTH + 1), "at most 512 characters"),
    ],
)
def test_a_bad_pattern_is_refused(pattern: str, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What RE2 cannot match in linear time and bounded memory is refused when it is written, and nothing is printed."""
    with pytest.raises(PatternError) as raised:
        matches(AT, pattern)

    assert message in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_pattern_takes_linear_time() -> None:
    """The patterns that make backtracking engines run for ever are done at once."""
    for pattern in (r"(a+)+", r"([a-zA-Z]+)*", r"(a|aa)+", r"(a|a?)+", r"(.*a){20}"):
        started = time.perf_counter()
        assert not holds(matches(AT, pattern), "a" * 1000 + "!")

        assert time.perf_counter() - started < 1


@given(JSON, st.sampled_from(["a", "true", "1", True, False]))
def test_no_value_raises_or_is_mistaken(value: object, wanted: str | bool) -> None:  # noqa: FBT001 - drawn
    """Whatever a claim holds, a rule answers; and what it takes is of the type and value that it wants."""
    assert holds(one_of(AT, [wanted]), value) == (type(value) is type(wanted) and value == wanted)
    assert holds(contains(AT, wanted), [value]) == holds(one_of(AT, [wanted]), value)
    assert not holds(contains(AT, wanted), value) or isinstance(value, list)
    assert not holds(matches(AT, ".*"), value) or isinstance(value, str)
