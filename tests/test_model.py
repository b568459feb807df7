"""Decisions and outages."""

import pytest

from genops_extauth.model import Allowed, Denied, Limited
from genops_extauth.policy import Policy
from genops_extauth.reasons import Reason
from genops_extauth.refusal_table import DENIALS


@pytest.mark.parametrize(
    "decision", [Allowed(Policy().nobody), Denied(Reason.INTERNAL), Limited(over=False, statuses=())]
)
def test_a_decision_has_no_truth_value(decision: object) -> None:
    """A decision used as a condition raises, so that ``if verdict:`` can never become a bypass."""
    with pytest.raises(TypeError, match="no truth value"):
        bool(decision)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_refusal(reason: Reason) -> None:
    """Every reason is answered with an HTTP error status, a non-zero code and an error code of its own words."""
    denial = DENIALS[reason]

    assert 400 <= denial.status <= 599
    assert denial.code != 0
    assert denial.error.replace("_", "").isalpha()


def test_what_a_bad_token_failed_is_not_told() -> None:
    """Every way in which a token can be bad gets the same answer."""
    answers = {DENIALS[reason] for reason in Reason if reason.startswith("token_")}

    assert len(answers) == 1
    assert answers.pop().challenge == 'Bearer realm="genops", error="invalid_token"'


def test_a_401_carries_a_challenge() -> None:
    """A 401 says how to authenticate (RFC 9110, 15.5.2), and a 403 where a scope is lacking (RFC 6750, 3.1)."""
    for denial in DENIALS.values():
        assert bool(denial.challenge) == (denial.status == 401 or denial.error == "insufficient_scope")
