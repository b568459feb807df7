"""Which requests pass, what the upstream is told, and what is stripped."""

import ast
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generated import modules
from genops_extauth.body_rules import BodyRules, models
from genops_extauth.model import Allowed, Denied, Identity, Request
from genops_extauth.paths import pattern
from genops_extauth.policy import Policy
from genops_extauth.reasons import Reason
from genops_extauth.reserved_headers import ATTRIBUTES, RESERVED, look
from genops_extauth.routes import Requirements, Route

ALICE = Identity("https://idp.test", "alice", {"team": "ml", "project": "chat", "customer_id": "acme"}, 2e9)
HEALTH = Route("health", methods=frozenset({"GET"}), path=pattern("/healthz"), asks=False)
POLICY = Policy((HEALTH,), ("team", "project", "customer_id"), {"customer_tier": "free"}, default_tier="free")
ORIGIN = b"https://app.test"


def request(method: str = "POST", path: str = "/v1/chat", /, **headers: bytes) -> Request:
    sent = {name.replace("__", "-"): value for name, value in headers.items()}
    return Request(method, path, "api.test", sent)


def decide(asked: Request, identity: Identity | None = ALICE, policy: Policy = POLICY) -> Allowed | Denied:
    grant = policy.nobody if identity is None else policy.grants(identity)
    return policy.authorize(policy.route(asked), asked, grant, lambda: "a-new-id")


def demanding(**demands: object) -> Policy:
    """A policy whose one route demands something."""
    everywhere = replace(Route("demanding", accepts=("jwt", "api_key")), **demands)  # type: ignore[arg-type] # as given
    return replace(POLICY, routes=(everywhere,))


def stripped(verdict: Allowed | Denied) -> set[str]:
    assert isinstance(verdict, Allowed)
    return {*verdict.grant.removed, *verdict.removed}


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


def test_the_sdks_headers_say_the_same() -> None:
    """Where they are wanted the SDK's own headers are set with the same values, and not removed."""
    policy = replace(POLICY, sdk_headers=True)
    grant = policy.grants(replace(ALICE, attributes={**ALICE.attributes, "user_id": "u1"}))
    sdk = {name: value for name, value in grant.headers if not name.startswith("x-genops-")}

    assert sdk == {"x-customer-id": "acme", "x-tenant-id": "acme", "x-user-id": "u1"}
    assert not set(sdk) & set(grant.removed)
    assert "x-trace-id" in grant.removed


NAMES = st.sampled_from([*RESERVED, "x_genops_team", "x.api.key", "authorization", "accept", "connection", "x-api-key"])
POLICIES = st.builds(
    Policy,
    routes=st.sampled_from([(), (HEALTH,), (replace(HEALTH, methods=frozenset()),)]),
    defaults=st.sampled_from([{}, {"customer_tier": "free", "team": "ops"}]),
    sdk_headers=st.booleans(),
    api_key_header=st.sampled_from([None, "x-api-key", "authorization"]),
    api_key_parameter=st.sampled_from([None, "key"]),
    forward_authorization=st.booleans(),
)


@given(
    POLICIES,
    st.none() | st.dictionaries(st.sampled_from(ATTRIBUTES), st.sampled_from(["x", ""])),
    st.dictionaries(NAMES, st.sampled_from([b"x", b"x-genops-team", b"Bearer gxk_0"]), max_size=6),
    st.sampled_from(["/healthz", "/v1", "/a%2Fb"]),
)
def test_what_is_set_is_never_removed(
    policy: Policy, attributes: Mapping[str, str] | None, headers: dict[str, bytes], path: str
) -> None:
    """Whoever passes: set and removed are disjoint, and all that is reserved is one of the two, in every spelling."""
    asked = Request("GET", path, "", headers)
    verdict = decide(asked, None if attributes is None else Identity("i", "s", attributes, 2e9), policy)
    if isinstance(verdict, Allowed):
        set_names = {name for name, _ in verdict.grant.headers}
        assert not set_names & stripped(verdict)
        assert len(verdict.grant.removed) + len(verdict.removed) == len(stripped(verdict))
        covered = set_names | stripped(verdict)
        assert covered >= {*RESERVED, *look("\n".join(headers), policy.api_key_header).aliases}
        assert policy.api_key_header is None or policy.api_key_header in covered
        assert policy.forward_authorization or "authorization" in covered


def test_every_spelling_of_a_reserved_header_is_removed() -> None:
    """A header that folds into a reserved name is removed by the very name it came under."""
    verdict = decide(request(x_genops_team=b"evil"))

    assert isinstance(verdict, Allowed)
    assert verdict.removed == ("x_genops_team",)


def test_a_reserved_name_with_forbidden_bytes_is_refused() -> None:
    """A header name that HTTP forbids is never echoed to the gateway: the request is refused."""
    verdict = decide(Request("GET", "/", "api.test", {"x-genops-a\r\nb": b"evil"}))

    assert verdict == Denied(Reason.REQUEST_MALFORMED, "the name of a reserved header")


def test_hop_by_hop_headers_take_none_of_ours_away() -> None:
    """A Connection field that names a header of ours is removed, and any other left to the gateway."""
    assert "connection" in stripped(decide(request(connection=b"close, x-genops-team")))
    assert "connection" not in stripped(decide(request(connection=b"Upgrade")))


@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [
        ("GET", "/healthz", True),
        ("POST", "/healthz", False),
        ("OPTIONS", "/healthz", False),
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
    asked = request(method, path)
    verdict = decide(asked, None)

    assert POLICY.unasked(POLICY.route(asked), asked) is passes
    assert isinstance(verdict, Allowed) is passes
    if isinstance(verdict, Allowed):
        assert verdict.grant.removed == RESERVED


@pytest.mark.parametrize("path", ["/healthz%2f..%2fv1", "/v1//a", "/a;b", "/a%2Fb", "/../a", "/a%00"])
def test_an_ambiguous_path_is_refused_even_with_a_good_credential(path: str) -> None:
    """A path with two readings asks for a credential first, and is refused with one."""
    assert decide(request("GET", path), None) == Denied(Reason.CREDENTIALS_MISSING)
    assert decide(request("GET", path)) == Denied(Reason.PATH_NOT_CANONICAL)


def test_a_missing_required_attribute_is_named_in_the_log_and_refused() -> None:
    """An identity without a required attribute is refused, and the detail names the attribute."""
    nameless = replace(ALICE, attributes={"team": "ml", "project": "chat"})

    assert decide(request(), nameless) == Denied(Reason.ATTRIBUTE_MISSING, "customer_id")


@pytest.mark.parametrize(
    ("method", "path"),
    [("CONNECT", ""), ("GET", "*"), ("GET", "\\healthz"), ("G T", "/"), ("", "/"), ("post", "/"), ("Get", "/healthz")],
)
def test_a_request_without_method_or_path_is_refused(method: str, path: str) -> None:
    """What is no method, or another spelling of one, and what is no origin-form path, never passes, whoever asks."""
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


def test_a_refused_route_lets_nobody_pass_and_asks_nobody() -> None:
    """A route that refuses says the same to everybody, before any credential is looked at."""
    policy = demanding(asks=False, accepts=(), refusal=Reason.ROUTE_REFUSED)

    assert policy.unasked(policy.route(request()), request())
    assert decide(request(), None, policy) == Denied(Reason.ROUTE_REFUSED)
    assert decide(request(), ALICE, policy) == Denied(Reason.ROUTE_REFUSED)


def test_a_credential_that_the_route_does_not_take_is_none() -> None:
    """An identity of a kind that the route does not accept is refused, though the credential is good."""
    policy = demanding(accepts=("api_key", "anonymous"))

    assert decide(request(), ALICE, policy) == Denied(Reason.CREDENTIALS_UNSUPPORTED)
    assert isinstance(decide(request(), replace(ALICE, method="api_key"), policy), Allowed)
    assert isinstance(decide(request(), None, policy), Allowed)


@pytest.mark.parametrize(
    ("requires", "identity", "refused"),
    [
        (Requirements(frozenset({"a", "b"})), {"scopes": frozenset({"a", "b", "c"})}, None),
        (Requirements(frozenset({"a", "b"})), {"scopes": frozenset({"a"})}, Denied(Reason.SCOPE_MISSING, "b")),
        (
            Requirements(frozenset({"llm.invoke"})),
            {"scopes": frozenset({"xllm.invoke", "llm.invoke:none", "llm.*"})},
            Denied(Reason.SCOPE_MISSING, "llm.invoke"),
        ),
        (Requirements(roles=frozenset({"a", "b"})), {"roles": frozenset({"b"})}, None),
        (Requirements(roles=frozenset({"a", "b"})), {"roles": frozenset({"ab", "A"})}, Denied(Reason.ROLE_MISSING)),
        (Requirements(tiers=frozenset({"free"})), {}, None),
        (Requirements(tiers=frozenset({"premium"})), {}, Denied(Reason.TIER_NOT_ADMITTED)),
        (Requirements(attributes={"team": frozenset({"ml", "ads"}), "customer_tier": frozenset({"free"})}), {}, None),
        (Requirements(attributes={"team": frozenset({"m", "ml2"})}), {}, Denied(Reason.ATTRIBUTE_NOT_ADMITTED, "team")),
        (Requirements(attributes={"feature": frozenset({"x"})}), {}, Denied(Reason.ATTRIBUTE_NOT_ADMITTED, "feature")),
    ],
)
def test_requirements_compare_whole_values(
    requires: Requirements, identity: dict[str, frozenset[str]], refused: Denied | None
) -> None:
    """All scopes, one role, one tier and one value of each attribute are needed, after defaults, compared whole."""
    somebody = replace(ALICE, scopes=identity.get("scopes", frozenset()), roles=identity.get("roles", frozenset()))
    verdict = decide(request(), somebody, demanding(requires=requires))

    assert verdict == refused or (refused is None and isinstance(verdict, Allowed))


def test_an_unknown_tier_is_the_default_one() -> None:
    """A tier that is not configured opens no more than the default tier does."""
    platinum = replace(ALICE, attributes={**ALICE.attributes, "customer_tier": "platinum"})
    policy = demanding(requires=Requirements(tiers=frozenset({"platinum"})))

    assert isinstance(decide(request(), platinum, policy), Allowed)
    known = replace(policy, tiers=frozenset({"free", "premium"}))
    assert decide(request(), platinum, known) == Denied(Reason.TIER_NOT_ADMITTED)


def test_body_rules_are_the_tiers() -> None:
    """Bodies are judged by the tier of the identity, and of the default tier where there is none."""
    rules = BodyRules({"free": models(("small-*",)), "premium": models(("*",))}, {})
    policy = demanding(body=rules, accepts=("jwt", "anonymous"))
    asked = request(content__type=b"application/json")._replace(body=b'{"model": "big"}')
    premium = replace(ALICE, attributes={**ALICE.attributes, "customer_tier": "premium"})

    assert isinstance(decide(asked, premium, policy), Allowed)
    assert decide(asked, ALICE, policy) == Denied(Reason.MODEL_NOT_ADMITTED)
    assert decide(asked, None, policy) == Denied(Reason.MODEL_NOT_ADMITTED)
    assert decide(request(), ALICE, policy) == Denied(Reason.BODY_MISSING)


def test_bodies_are_not_looked_at_without_rules() -> None:
    """A body that is cut off is nothing to us where no rule is about it."""
    asked = request(x__envoy__auth__partial__body=b"true")._replace(body=b'{"model":"gpt')

    assert isinstance(decide(asked), Allowed)


@pytest.mark.parametrize(
    ("method", "headers", "passes"),
    [
        ("OPTIONS", {"origin": ORIGIN, "access__control__request__method": b"POST"}, True),
        ("POST", {"origin": ORIGIN, "access__control__request__method": b"POST"}, False),
        ("OPTIONS", {"origin": ORIGIN}, False),
        ("OPTIONS", {"origin": ORIGIN, "access__control__request__method": b""}, False),
        ("OPTIONS", {"access__control__request__method": b"POST"}, False),
        ("OPTIONS", {"origin": b"https://app.test.evil.test", "access__control__request__method": b"POST"}, False),
        ("OPTIONS", {"origin": b"https://app.test,https://app.test", "access__control__request__method": b"P"}, False),
        ("OPTIONS", {"origin": b"HTTPS://app.test", "access__control__request__method": b"POST"}, False),
        ("OPTIONS", {"origin": b"null", "access__control__request__method": b"POST"}, False),
    ],
)
def test_only_preflights_of_known_origins_pass(method: str, headers: dict[str, bytes], passes: bool) -> None:  # noqa: FBT001
    """OPTIONS passes unasked with the exact origin and a method to ask for, stripped of all reserved; nothing else."""
    rules = BodyRules({"free": models(("x",))}, {})
    policy = demanding(origins=frozenset({ORIGIN}), requires=Requirements(frozenset({"s"})), body=rules)
    asked = request(method, x_genops_team=b"evil", **headers)
    verdict = decide(asked, None, policy)

    assert policy.unasked(policy.route(asked), asked) is passes
    if passes:
        assert stripped(verdict) == {*RESERVED, "x_genops_team"}
    else:
        assert verdict == Denied(Reason.CREDENTIALS_MISSING)


def test_preflights_are_a_matter_of_their_route() -> None:
    """Where a route knows no origins OPTIONS is authenticated like any method."""
    asked = request("OPTIONS", origin=ORIGIN, access__control__request__method=b"POST")

    assert decide(asked, None) == Denied(Reason.CREDENTIALS_MISSING)
    assert isinstance(decide(asked), Allowed)


@pytest.mark.parametrize("path", ["/healthz", "/v1"])
def test_keys_and_tokens_stay_here_where_they_should(path: str) -> None:
    """The API key's header is removed on every path, Authorization where it is not to be forwarded, whoever asks."""
    policy = replace(POLICY, api_key_header="x-api-key", forward_authorization=False)
    identity = None if path == "/healthz" else ALICE

    assert {"x-api-key", "authorization"} <= stripped(decide(request("GET", path), identity, policy))
    assert "x-api-key" not in stripped(decide(request("GET", path), identity, POLICY))
    assert "authorization" not in stripped(decide(request("GET", path), identity, POLICY))


@pytest.mark.parametrize(
    ("authorization", "removed"),
    [
        (b"Bearer gxk_0123", True),
        (b"bearer   gxk_0123", True),
        (b"Bearer a,Bearer gxk_0123", True),
        (b"Bearer\tgxk_0123", True),
        (b"Bearer agxk_0123", False),
        (b"Basic Z3hrXw==", False),
    ],
)
def test_a_key_as_bearer_token_is_removed(authorization: bytes, removed: bool) -> None:  # noqa: FBT001
    """An API key in Authorization never arrives upstream, on open routes neither; other credentials do."""
    policy = replace(POLICY, api_key_header="x-api-key")
    for identity in (None, replace(ALICE, method="api_key"), replace(ALICE, method="certificate")):
        asked = request("GET", "/healthz" if identity is None else "/v1", authorization=authorization)
        assert ("authorization" in stripped(decide(asked, identity, policy))) is removed


@pytest.mark.parametrize(
    ("query", "removed"),
    [
        ("key=gxk_0", ("key",)),
        ("a=1&key=gxk_0&b", ("key",)),
        ("k%65y=gxk_0&a&key", ("k%65y", "key")),
        ("a=1", ()),
        ("a=key&b=%6bey", ()),
        ("monkey=1", ()),
        ("Key=1", ()),
        ("", ()),
    ],
)
def test_a_key_in_the_query_is_removed(query: str, removed: tuple[str, ...]) -> None:
    """The parameter of API keys never arrives upstream where one is configured."""
    verdict = decide(request()._replace(query=query), ALICE, replace(POLICY, api_key_parameter="key"))

    assert isinstance(verdict, Allowed)
    assert verdict.removed_parameters == removed
    unconfigured = decide(request()._replace(query=query))
    assert isinstance(unconfigured, Allowed)
    assert unconfigured.removed_parameters == ()


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (b"application/json", "problem"),
        (b"application/grpc", "grpc"),
        (b"application/grpc+proto", "grpc"),
        (b"application/grpc; charset=utf-8", "grpc"),
        (b"application/grpc-web+proto", "problem"),
    ],
)
def test_refusals_are_written_as_the_route_says(kind: bytes, form: str) -> None:
    """The route says how its refusals are written, but who speaks gRPC is answered so."""
    policy = demanding(denials="problem")
    asked = request(content__type=kind)

    assert policy.form(policy.route(asked), asked) == form


def test_allowed_is_said_in_one_place() -> None:
    """One function of the package makes an `Allowed`, and it is `Policy.authorize`."""
    makers = [
        (module, function.name)
        for module, tree in modules().items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Allowed"
    ]

    assert makers == [("policy", "authorize")]
