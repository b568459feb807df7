import pytest

from genops_extauth import key_guesses
from genops_extauth.key_guesses import Guesses, Pace
from memory_store import Clock

SECOND = 1_000_000


def exhausted(guesses: Guesses, address: str) -> int:
    """How many guesses an address has left."""
    count = 0
    while guesses.allowed(address) and count < 1000:
        guesses.failed(address)
        count += 1
    return count


def test_an_address_has_some_guesses_and_then_a_few_a_second() -> None:
    """An address may guess wrong as often as its burst, and then as often as its rate; others are not asked to pay."""
    clock = Clock()
    guesses = Guesses(clock, of_address=Pace(10, 2), of_all=Pace(1000, 1000))
    assert exhausted(guesses, "192.0.2.1") == 10
    clock.us += SECOND
    assert exhausted(guesses, "192.0.2.1") == 2
    assert guesses.allowed("192.0.2.2")


def test_all_addresses_together_have_a_bound() -> None:
    """Who guesses from many addresses meets the bucket of all of them, and so does everybody else with unknown keys."""
    clock = Clock()
    guesses = Guesses(clock, of_address=Pace(10, 2), of_all=Pace(20, 1))
    assert [exhausted(guesses, f"192.0.2.{number}") for number in range(4)] == [10, 10, 0, 0]
    clock.us += 3 * SECOND
    assert exhausted(guesses, "192.0.2.9") == 3


def test_debts_end() -> None:
    """Guesses that failed at the same moment are paid for, up to a burst: nobody waits for hours."""
    clock = Clock()
    guesses = Guesses(clock, of_address=Pace(5, 1), of_all=Pace(1000, 1000))
    for _ in range(100):
        guesses.failed("192.0.2.1")
    clock.us += 5 * SECOND
    assert not guesses.allowed("192.0.2.1")
    clock.us += SECOND
    assert guesses.allowed("192.0.2.1")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("not:an:address", "not:an:address", True),
        ("", "", True),
    ],
)
def test_a_network_of_ipv6_is_one_sender(one: str, other: str, same: bool) -> None:  # noqa: FBT001 - a table's column
    """All addresses of a /64 have one bucket: who has one of them has them all."""
    guesses = Guesses(Clock(), of_address=Pace(1, 1), of_all=Pace(1000, 1000))
    guesses.failed(one)
    assert guesses.allowed(other) != same


def test_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more addresses are remembered than the bound; the one that failed longest ago is forgotten first."""
    monkeypatch.setattr(key_guesses, "_MAX_ADDRESSES", 3)
    guesses = Guesses(Clock(), of_address=Pace(1, 1), of_all=Pace(1000, 1000))
    for number in range(4):
        guesses.failed(f"192.0.2.{number}")
    assert [guesses.allowed(f"192.0.2.{number}") for number in range(4)] == [True, False, False, False]
