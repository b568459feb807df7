"""Durations, rates, shares, addresses and paths as `notation` reads them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth import notation
from genops_extauth.notation import Address, Rate, UnixPath


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("250ms", 0.25), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("24h", 86_400), ("1h1m1s1ms", 3661.001)],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a sum of whole hours, minutes, seconds and milliseconds."""
    assert notation.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "1.5s", "30m1h", "1d", "s", "5S", "٣s", "1e3s", "5s\n"])
def test_what_is_no_duration(text: str) -> None:
    """A number without unit, a sign, a fraction, an unknown unit or another order is refused with examples."""
    with pytest.raises(ValueError, match=r"write for example 250ms, 30s, 5m, 1h30m or 24h"):
        notation.duration(text)


@pytest.mark.parametrize("unit", notation.PERIODS)
def test_rates(unit: str) -> None:
    """A rate is requests per unit, and reads back as it is written."""
    assert str(notation.rate(f"4294967295/{unit}")) == f"4294967295/{unit}"
    assert notation.rate("100/hour") == Rate(100, "hour")
    assert notation.rate("100/hour").period == 3600


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("100/fortnight", "unit must be second, minute, hour, day, week, month or year"),
        ("100/hours", "unit must be"),
        ("100", "100/hour"),
        ("1e3/hour", "100/hour"),
        ("-1/hour", "100/hour"),
        ("0100/hour", "100/hour"),
        ("100 / hour", "100/hour"),
        ("4294967296/hour", "0 to 4294967295"),
        ("9" * 5000 + "/hour", "100/hour"),
    ],
)
def test_what_is_no_rate(text: str, hint: str) -> None:
    """A rate with another unit, another number or too large a one is refused with what to write."""
    with pytest.raises(ValueError, match=hint):
        notation.rate(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:65535", Address("::1", 65_535)),
        ("unix:/run/genops/grpc.sock", UnixPath("/run/genops/grpc.sock")),
    ],
)
def test_addresses(text: str, address: Address | UnixPath) -> None:
    """An address is host and port or a socket's path, and reads back as it is written."""
    assert notation.listen_address(text) == address
    assert str(address) == text


def test_unix_with_three_slashes() -> None:
    """The URL form of a socket's path is the same path."""
    assert notation.listen_address("unix:///run/a.sock") == UnixPath("/run/a.sock")


@pytest.mark.parametrize(
    "text",
    ["50051", ":50051", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:080", "::1:80", "[127.0.0.1]:80", "1.2.3:80",
     "999.0.0.1:80", "a b:80", "unix:", "unix:relative", "unix:/folder/", "unix:/" + "x" * 107, "http://x:80"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    """What names no host and port, nor a short absolute path, is refused."""
    with pytest.raises(ValueError, match=r"write|choose"):
        notation.listen_address(text)


@pytest.mark.parametrize(
    ("text", "share"), [("0%", 0.0), ("10%", 0.1), ("100%", 1.0), ("0", 0.0), ("0.8", 0.8), ("1", 1.0), ("2.5%", 0.025)]
)
def test_shares(text: str, share: float) -> None:
    """A share is a number from 0 to 1, or a percentage."""
    assert notation.share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "10 %", "101%", "1.1", "-1%", "10", ".5", "1e-1", "0.1234567", "٣%", "10%\n"])
def test_what_is_no_share(text: str) -> None:
    """More than all of it, a sign, another number or nothing is refused with examples."""
    with pytest.raises(ValueError, match=r"write a share from 0% to 100%, for example 10% or 0.1"):
        notation.share(text)


READERS = (
    notation.duration,
    notation.count,
    notation.boolean,
    notation.rate,
    notation.listen_address,
    notation.tcp_address,
    notation.share,
)


@pytest.mark.parametrize("read", READERS)
@given(
    text=st.text() | st.from_regex(r"[a-z0-9]{0,9}(:|/|://)[\[\]a-z0-9:@./%?]{0,20}"),
    secret=st.from_regex(r"\A[#-&][A-Z]{8}\Z"),
)
def test_any_text_is_read_or_refused(read: Callable[[str], object], text: str, secret: str) -> None:
    """Any text gives a value or ValueError, and the message never quotes what was written."""
    message = ""
    try:
        read(text + secret)
    except ValueError as error:
        message = str(error)
    assert secret not in message
