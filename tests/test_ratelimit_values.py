"""How values of envoyproxy/ratelimit's environment are read, and written for our configuration."""

import pytest

from genops_extauth import notation
from genops_extauth.ratelimit_values import duration, integer, log_format, number, pairs


@pytest.mark.parametrize(
    ("written", "due"),
    [
        ("0", "0s"),
        ("+1.5h", "5400s"),
        ("1m30s", "90s"),
        ("250ms", "250ms"),
        ("1000us", "1ms"),
        ("1001us", "2ms"),
        ("1000\u00b5s", "1ms"),
        ("1001\u00b5s", "2ms"),
        ("1000\u03bcs", "1ms"),
        ("1001\u03bcs", "2ms"),
        ("1000000ns", "1ms"),
        ("1000001ns", "2ms"),
    ],
)
def test_a_duration_is_rounded_up_to_milliseconds(written: str, due: str) -> None:
    """A duration in any of Go's units is the next one that our configuration can write, never a shorter one."""
    assert duration(written) == due
    assert notation.duration(due) >= 0


@pytest.mark.parametrize("written", ["", "+", "5", "-1s", "1s2", "s", "1 s", "1\u0131s"])
def test_what_is_no_duration_is_refused(written: str) -> None:
    """What Go takes for no duration, and what no time could be, is refused with what to write."""
    with pytest.raises(ValueError, match="write a duration, for example 250ms, 10s or 1m30s"):
        duration(written)


def test_pairs_are_cut_at_their_first_sign() -> None:
    """Of a pair the value may hold the sign again, and space around either counts for nothing."""
    assert pairs(" a : b:c , d:,") == {"a": "b:c", "d": ""}
    for wrong in ("a", ":b", " :b"):
        with pytest.raises(ValueError, match="write pairs, for example a:b,c:d"):
            pairs(wrong)


def test_numbers_are_gos() -> None:
    """Whole numbers may be in Go's bases, other numbers have six decimals at most."""
    assert [integer(text) for text in ("8081", "0x1f91", "10_000")] == ["8081", "8081", "10000"]
    assert [number(text) for text in ("0.8", "1", "1e-3", "0.12345678")] == ["0.8", "1", "0.001", "0.123457"]


def test_every_log_format_but_json_is_text() -> None:
    """A log is JSON where that is asked for, in any case of letters, and text otherwise."""
    assert [log_format(text) for text in ("json", "JSON", "text", "logfmt")] == ["json", "json", "console", "console"]
