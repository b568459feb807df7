import inspect
import ssl

import hiredis
import pytest
import redis.exceptions
from redis.exceptions import ResponseError

from genops_extauth.model import StoreUnavailable
from genops_extauth.redis_faults import FAULTS, kind_of, translated


def foreign() -> list[type[Exception]]:
    """All that redis-py, hiredis and the socket may raise."""
    modules = (redis.exceptions, hiredis)
    found = [each for module in modules for _, each in inspect.getmembers(module, inspect.isclass)]
    others = {
        redis.exceptions.ChildDeadlockedError,
        redis.exceptions.IncorrectPolicyType,
    }  # misuse of what we do not use
    raised = [each for each in found if issubclass(each, Exception) and each not in others]
    return [*raised, OSError, TimeoutError, ConnectionResetError, ssl.SSLCertVerificationError]


@pytest.mark.parametrize("raised", foreign(), ids=lambda each: f"{each.__module__}.{each.__name__}")
def test_every_foreign_exception_is_translated(raised: type[Exception]) -> None:
    """Whatever the client library can raise becomes StoreUnavailable, with a kind and an advice."""
    error = raised.__new__(raised)
    outage = translated(error, "redis://host:1/0")
    assert isinstance(outage, StoreUnavailable)
    assert str(outage).startswith(f"{kind_of(error)}: the store redis://host:1/0 cannot be used: ")
    assert outage.__cause__ is error


def test_no_fault_hides_another() -> None:
    """Each row of the table is reached: no earlier one is more general."""
    for number, (fault, _, _) in enumerate(FAULTS):
        assert not any(issubclass(fault, earlier) for earlier, _, _ in FAULTS[:number]), fault


def test_defect_of_ours_is_not_dressed_as_an_outage() -> None:
    """An exception that is none of the store's passes as it is."""
    error = KeyError("ours")
    assert kind_of(error) is None
    assert translated(error, "") is error


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (
            "Error running script (call to f_1): @user_script:39: @user_script: 39: -READONLY You can't write",
            "read_only",
        ),
        ("Error running script (call to f_1): @user_script: 39: -OOM command not allowed", "full"),
        ("MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to", "read_only"),
        ("NOREPLICAS Not enough good replicas to write. script: 4bba, on @user_script:39.", "read_only"),
        ("BUSY Redis is busy running a script.", "timeout"),
        ("ACL failure in script: User part has no permissions to run the 'set' command", "refused"),
        ("The user executing the script can't run this command or subcommand script: 4b", "refused"),
        ("unknown command 'EVALSHA'", "error"),
    ],
)
def test_errors_without_a_class_are_known_by_their_words(said: str, kind: str) -> None:
    """An error that the client has no class for, or that 6.2 wraps in a script's own, has its kind by what it says."""
    assert kind_of(ResponseError(said)) == kind
    assert str(translated(ResponseError(said), "redis://a")).startswith(f"{kind}: the store redis://a cannot be used: ")
