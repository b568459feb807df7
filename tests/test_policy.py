"""Which requests pass, what the upstream is told, and what is stripped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth import policy
from genops_extauth.model import Allowed, Denied, Grant, Identity, Reason, Request
from genops_extauth.policy import NOBODY, RESERVED, Policy

ALICE = Identity("https://idp.test", "alice", {"team": "ml", "project": "chat", "customer_id": "acme"}, 2e9)
POLICY = Policy(
    open_routes=frozenset({("GET", "/healthz")}),
    required=("team", "project", "customer_id"),
    defaults={"customer_tier": "free"},
)


def request(method: str = "POST", path: str = "/v1/chat", **headers: bytes) -> Request:
    return Request(method, path, "api.test", {name.replace("__", "-"): value for name, value in headers.items()})


def decide(asked: Request, grant: Grant | None = None) -> Allowed | Denied:
    return POLICY.authorize(asked, grant or POLICY.grants(ALICE), lambda: "a-new-id")


def test_an_identity_becomes_headers_and_metadata() -> None:
    """The attributes of an identity, and the defaults for those it lacks, are set as headers and as metadata alike."""
    grant = POLICY.grants(ALICE)

    assert grant.headers == (
        ("x-genops-team", "ml"),
        ("x-genops-project", "chat"),
        ("x-genops-customer-id", "acme"),
        ("x-genops-customer-tier", "free"),
    )
    assert dict(grant.metadata) == {"team": "ml", "project": "chat", "customer_id": "acme", "customer_tier": "free"}


@given(
    st.dictionaries(st.sampled_from(["team", "project", "customer_id", "customer_tier", "cost_center"]), st.just("x"))
)
def test_what_is_set_is_never_removed(attributes: dict[str, str]) -> None:
    """Set and removed headers are disjoint, and together they cover every reserved name."""
    grant = POLICY.grants(Identity("i", "s", attributes, 2e9))
    names = [name for name, _ in grant.headers]

    assert not set(names) & set(grant.removed)
    assert set(names) | set(grant.removed) == set(RESERVED)


@pytest.mark.parametrize(
    "name",
    [
        "x_genops_team",
        "x.genops.team",
        "x-genops_team",
        "x-genops-anything",
        "x_customer_id",
        "x.user.id",
        "x-tenant_id",
        "x!genops~team",
    ],
)
def test_every_spelling_of_a_reserved_header_is_removed(name: str) -> None:
    """A header that folds into a reserved name is removed by the very name it came under."""
    verdict = decide(Request("GET", "/", "api.test", {name: b"evil", "x-request-id": b"1"}))

    assert isinstance(verdict, Allowed)
    assert verdict.removed == (name,)


def test_names_that_a_client_invents_are_not_remembered() -> None:
    """Long lists of names leave nothing behind, so a client cannot fill the memory with new ones."""
    before = policy._known_aliases.cache_info().currsize
    for number in range(50):
        names = {f"x_genops_{number}_{i:040d}": b"" for i in range(90)}
        verdict = decide(Request("GET", "/", "api.test", names))
        assert isinstance(verdict, Allowed)
        assert len(verdict.removed) == 90

    assert policy._known_aliases.cache_info().currsize == before


@pytest.mark.parametrize("name", ["x-forwarded-for", "x-customer", "xgenops-team", "genops-team", "accept"])
def test_other_headers_are_left_alone(name: str) -> None:
    """Nothing but reserved names is removed."""
    verdict = decide(Request("GET", "/", "api.test", {name: b"value"}))

    assert isinstance(verdict, Allowed)
    assert verdict.removed == ()


def test_a_reserved_name_with_forbidden_bytes_is_refused() -> None:
    """A header name that HTTP forbids is never echoed to the gateway: the request is refused."""
    verdict = decide(Request("GET", "/", "api.test", {"x-genops-a\r\nb": b"evil"}))

    assert verdict == Denied(Reason.REQUEST_MALFORMED, "the name of a reserved header")


@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [
        ("GET", "/healthz", True),
        ("POST", "/healthz", False),
        ("get", "/healthz", False),
        ("GET", "/healthz/", False),
        ("GET", "/HEALTHZ", False),
        ("GET", "//healthz", False),
        ("GET", "/healthz;x", False),
        ("GET", "/healthz#x", False),
        ("GET", "/%68ealthz", False),
        ("GET", "/v1/../healthz", False),
        ("GET", "/healthz%2f..%2fv1", False),
    ],
)
def test_a_route_is_open_by_exact_method_and_path(method: str, path: str, passes: bool) -> None:  # noqa: FBT001
    """Without identity only the exact method and path of an open route pass, and all reserved names are stripped."""
    verdict = decide(request(method, path), NOBODY)

    assert isinstance(verdict, Allowed) is passes
    if isinstance(verdict, Allowed):
        assert verdict.grant.removed == RESERVED


def test_a_missing_required_attribute_is_named_in_the_log_and_refused() -> None:
    """An identity without a required attribute is refused, and the detail names the attribute."""
    nameless = Identity("i", "s", {"team": "ml", "project": "chat"}, 2e9)

    assert decide(request(), POLICY.grants(nameless)) == Denied(Reason.ATTRIBUTE_MISSING, "customer_id")


@pytest.mark.parametrize(
    ("method", "path"), [("CONNECT", ""), ("GET", "*"), ("GET", "\\healthz"), ("G T", "/"), ("", "/")]
)
def test_a_request_without_method_or_path_is_refused(method: str, path: str) -> None:
    """What is no method, and what is no origin-form path, never passes, whoever asks."""
    assert decide(request(method, path)) == Denied(Reason.REQUEST_MALFORMED, "method or path")


def test_a_request_that_contradicts_itself_is_refused() -> None:
    """Two encodings that disagree are never resolved by taking one of them."""
    verdict = decide(Request("GET", "/", "api.test", {}, consistent=False))

    assert verdict == Denied(Reason.REQUEST_INCONSISTENT)


@pytest.mark.parametrize(
    ("sent", "set_to"),
    [
        (b"11111111-1111-9111-8111-111111111111", None),
        (b"", "a-new-id"),
        (b"a\r\nlevel=fatal", "a-new-id"),
        (b"a" * 129, "a-new-id"),
        (b"caf\xe9", "a-new-id"),
    ],
)
def test_a_usable_request_id_is_kept_and_any_other_replaced(sent: bytes, set_to: str | None) -> None:
    """A usable x-request-id (Envoy packs its sampling decision into it) is kept; a missing or odd one is replaced."""
    verdict = decide(request(x__request__id=sent))

    assert isinstance(verdict, Allowed)
    assert verdict.request_id == set_to
