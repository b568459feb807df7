"""What goes wrong without a word when a gateway's resources and the sidecar's do not agree."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import compiled
from genops_extauth.notation import duration
from genops_extauth.reserved_headers import RESERVED_PREFIX, SDK_HEADERS
from manifests import DEPLOY, GATEWAYS, SERVICE, VARIANTS, Manifest, build, fields, of_kind, one, read, texts

BUILT = {gateway: build(DEPLOY / gateway) for gateway in GATEWAYS}
ENVOYS = {
    "envoy": compiled.plain,
    "ambassador": compiled.ambassador,
    "gateway-api": compiled.gateway_api,
    "istio": compiled.istio,
}
OUTSIDE = ("ai-inference", "ai", 8080)
"""The service to protect: its Service is the reader's."""

each_gateway = pytest.mark.parametrize("gateway", GATEWAYS)
each_envoy = pytest.mark.parametrize("name", ENVOYS)


def filters(name: str) -> list[Manifest]:
    (found,) = fields(ENVOYS[name](), "http_filters")
    return list(found)


def typed(name: str, kind: str) -> Manifest:
    (found,) = (f["typed_config"] for f in filters(name) if f["typed_config"]["@type"].endswith(kind))
    return dict(found)


def genops(gateway: str) -> Manifest:
    built = BUILT.get(gateway) or BUILT["istio"]  # A plain Envoy stands before the base's configuration.
    loaded: Manifest = yaml.safe_load(one(built, "ConfigMap", "genops-extauth")["data"]["genops.yaml"])
    return loaded


@each_envoy
def test_authorization_comes_before_the_limit(name: str) -> None:
    """The filters stand in the order ext_authz, ratelimit, router: descriptors are made of what ext_authz found out."""
    order = [f["typed_config"]["@type"].rpartition(".")[2] for f in filters(name)]
    assert order == ["ExtAuthz", "RateLimit", "Router"]


@each_envoy
def test_both_services_are_asked_in_v3(name: str) -> None:
    """The transport version is named for both services: the default is v2, which Envoy refuses."""
    assert typed(name, "ExtAuthz")["transport_api_version"] == "V3"
    assert typed(name, "RateLimit")["rate_limit_service"]["transport_api_version"] == "V3"


@each_envoy
def test_no_answer_is_no_pass(name: str) -> None:
    """Both filters fail closed, and authorization with a status that is not taken for a verdict."""
    assert typed(name, "ExtAuthz")["failure_mode_allow"] is False
    assert typed(name, "ExtAuthz")["status_on_error"]["code"] in (503, "ServiceUnavailable")
    assert typed(name, "RateLimit")["failure_mode_deny"] is True


@each_envoy
def test_gateways_wait_longer_than_the_store_may_take(name: str) -> None:
    """Both timeouts are named, and leave the sidecar time to say that its store did not answer."""
    limit = max(0.1, duration(genops(name)["store"].get("timeout", "100ms")))
    assert float(typed(name, "RateLimit")["timeout"].removesuffix("s")) > limit
    assert 0.2 <= float(typed(name, "ExtAuthz")["grpc_service"]["timeout"].removesuffix("s")) <= 1


@each_envoy
def test_domains_agree(name: str) -> None:
    """The filter asks in the domain that the sidecar limits: another one is an empty tree, and no limit."""
    assert typed(name, "RateLimit")["domain"] == genops(name)["rate_limits"]["domain"]


@each_envoy
def test_nobody_is_unlimited(name: str) -> None:
    """Every gateway has a descriptor that needs nothing of the client but its address."""
    (groups,) = fields(ENVOYS[name](), "rate_limits")
    lone = [
        group
        for group in groups
        if all(value.get("skip_if_absent") for action in group["actions"][1:] for value in action.values())
    ]
    assert [group["actions"][0] for group in lone] == [{"remote_address": {}}]


@each_gateway
def test_the_sidecar_is_asked_where_it_is(gateway: str) -> None:
    """Every address of the sidecar or the store is a Service's, with its namespace and a port that it has."""
    ports = {
        service["metadata"]["name"]: {port["port"] for port in service["spec"]["ports"]}
        for service in of_kind(BUILT[gateway], "Service")
    }
    assert {service["metadata"]["namespace"] for service in of_kind(BUILT[gateway], "Service")} == {"genops"}
    documents = [*BUILT[gateway], *(d for path in (DEPLOY / gateway).glob("*.values.yaml") for d in read(path))]
    found = [match for text in texts(documents) for match in SERVICE.finditer(text)]
    assert found
    for match in found:
        assert match["port"] is None or int(match["port"]) in ports[match["name"]]
    for socket in fields(documents, "socket_address"):
        assert socket["port_value"] in ports[socket["address"].partition(".")[0]]
    for provider in fields(documents, "envoyExtAuthzGrpc"):
        assert provider["port"] in ports[provider["service"].partition(".")[0]]


def references(documents: list[Manifest]) -> list[tuple[str, str, int, str]]:
    """List what Gateway API resources refer to: name, namespace, port, and the namespace of who refers."""
    found = []
    for document in documents:
        home = document["metadata"].get("namespace", "")
        both = [*(ref for refs in fields(document, "backendRefs") for ref in refs), *fields(document, "backendRef")]
        found += [(ref["name"], ref.get("namespace", home), ref["port"], home) for ref in both]
    return found


@pytest.mark.parametrize("variant", [None, *VARIANTS], ids=["shipped", *(path.stem for path in VARIANTS)])
def test_references_across_namespaces_are_granted(variant: Path | None) -> None:
    """Every backend exists, and one in another namespace has a ReferenceGrant that names it and its referrer."""
    documents = read(variant) if variant else BUILT["gateway-api"]
    (grant,) = of_kind(documents, "ReferenceGrant")
    (source,), (target,) = grant["spec"]["from"], grant["spec"]["to"]
    for name, namespace, port, home in references(documents):
        if (name, namespace, port) == OUTSIDE:
            continue
        service = one(BUILT["gateway-api"], "Service", name)
        assert service["metadata"]["namespace"] == namespace == grant["metadata"]["namespace"]
        assert port in [each["port"] for each in service["spec"]["ports"]]
        assert (source["namespace"], target["name"]) == (home, name)
        assert of_kind(documents, source["kind"])[0]["apiVersion"].startswith(source["group"] + "/")


def test_patches_find_what_they_patch() -> None:
    """The EnvoyPatchPolicy names the Gateway's listener as Envoy Gateway 1.9 does, in the Gateway's own namespace."""
    gateway, patches = one(BUILT["gateway-api"], "Gateway"), one(BUILT["gateway-api"], "EnvoyPatchPolicy")
    assert gateway["metadata"]["namespace"] == patches["metadata"]["namespace"]
    (listener,) = gateway["spec"]["listeners"]
    name = f"{gateway['metadata']['namespace']}/{gateway['metadata']['name']}/{listener['name']}"
    kinds = {patch["type"].rpartition(".")[2]: patch["name"] for patch in patches["spec"]["jsonPatches"]}
    assert (kinds["Listener"], kinds["RouteConfiguration"]) == (name, name)
    clusters = {kinds["Cluster"], *fields(patches, "cluster_name")}
    assert len(clusters) == 1


def test_policies_attach_to_the_gateway() -> None:
    """Every policy targets the Gateway that ships, and the network policy its proxies."""
    gateway = one(BUILT["gateway-api"], "Gateway")["metadata"]
    targets = [t for d in BUILT["gateway-api"] for ts in fields(d, "targetRefs") for t in ts]
    targets += [t for d in BUILT["gateway-api"] for t in fields(d, "targetRef")]
    assert len(targets) == 3
    assert {(target["kind"], target["name"]) for target in targets} == {("Gateway", gateway["name"])}
    (labels,) = admitted("gateway-api")
    assert labels == {
        "gateway.envoyproxy.io/owning-gateway-namespace": gateway["namespace"],
        "gateway.envoyproxy.io/owning-gateway-name": gateway["name"],
    }


def admitted(gateway: str) -> list[dict[str, str]]:
    """List the labels of the pods that may reach the sidecar's gRPC port."""
    policies = of_kind(BUILT[gateway], "NetworkPolicy")
    rules = [rule for policy in policies for rule in policy["spec"].get("ingress", [])]
    peers = [peer for rule in rules if {"port": "grpc"} in rule["ports"] for peer in rule["from"]]
    return [peer["podSelector"]["matchLabels"] for peer in peers]


def test_istio_asks_on_the_gateways_that_may_ask() -> None:
    """AuthorizationPolicy, EnvoyFilter and NetworkPolicy mean the same pods, and the provider exists."""
    authorization, patches = one(BUILT["istio"], "AuthorizationPolicy"), one(BUILT["istio"], "EnvoyFilter")
    pods = authorization["spec"]["selector"]["matchLabels"]
    assert [patches["spec"]["workloadSelector"]["labels"], *admitted("istio")] == [pods, pods]
    assert authorization["metadata"]["namespace"] == patches["metadata"]["namespace"]
    (mesh,) = read(DEPLOY / "istio" / "mesh.values.yaml")
    (provider,) = mesh["meshConfig"]["extensionProviders"]
    assert authorization["spec"]["provider"]["name"] == provider["name"]
    cluster = typed("istio", "RateLimit")["rate_limit_service"]["grpc_service"]["envoy_grpc"]
    assert cluster["cluster_name"] == f"outbound|{provider['envoyExtAuthzGrpc']['port']}||{cluster['authority']}"
    assert cluster["authority"] == provider["envoyExtAuthzGrpc"]["service"]


def test_emissary_asks_both_services_in_v3() -> None:
    """Without protocol_version Emissary answers 500 to everything, or limits nothing; of each service there is one."""
    for kind in ("AuthService", "RateLimitService"):
        assert one(BUILT["ambassador"], kind)["spec"]["protocol_version"] == "v3"
    assert one(BUILT["ambassador"], "AuthService")["spec"]["proto"] == "grpc"


def test_emissary_bypasses_nothing() -> None:
    """No Mapping skips the sidecar, adds headers after it, or labels its requests for another domain."""
    domain = one(BUILT["ambassador"], "RateLimitService")["spec"]["domain"]
    for mapping in of_kind(BUILT["ambassador"], "Mapping"):
        assert not mapping["spec"].keys() & {"bypass_auth", "add_request_headers"}
        assert mapping["spec"]["labels"].keys() == {domain}
        assert mapping["spec"]["service"] == "{}.{}:{}".format(*OUTSIDE)


def test_emissary_answers_only_over_tls() -> None:
    """Plain HTTP is refused before a token is answered; the default would redirect it."""
    host, mapping = one(BUILT["ambassador"], "Host")["spec"], one(BUILT["ambassador"], "Mapping")["spec"]
    assert host["requestPolicy"]["insecure"]["action"] == "Reject"
    assert host["hostname"] == mapping["hostname"]


def test_emissarys_address_limit_is_beyond_every_tier() -> None:
    """Where customers count on their address too, that limit never binds before their own."""
    loaded = genops("ambassador")
    address, per_hour = _rate(loaded["rate_limits"]["anonymous"]), 3600
    for tier in loaded["tiers"].values():
        assert _rate(tier)[0] * per_hour <= address[0] * per_hour
        assert _rate(tier)[1] <= address[1]


def _rate(limit: Manifest) -> tuple[float, int]:
    """Read a tier's requests per second, and its burst."""
    requests, _, unit = limit["limit"].partition("/")
    return int(requests) / {"second": 1, "minute": 60, "hour": 3600}[unit], limit.get("burst", int(requests))


@pytest.mark.parametrize("gateway", ["envoy", "gateway-api", "istio"])
def test_gateways_strip_what_the_sidecar_strips(gateway: str) -> None:
    """Where a gateway can strip before routing, it strips the sidecar's own list."""
    source: Any = read(compiled.PLAIN) if gateway == "envoy" else BUILT[gateway]
    if gateway == "gateway-api":
        (early,) = fields(source, "earlyRequestHeaders")
        assert early["removeOnMatch"] == [{"type": "Prefix", "value": RESERVED_PREFIX}]
        removed = early["remove"]
    else:
        (mutations,) = fields(source, "mutations")
        assert mutations[0]["remove_on_match"]["key_matcher"]["prefix"] == RESERVED_PREFIX
        removed = [mutation["remove"] for mutation in mutations[1:]]
    assert tuple(removed) == SDK_HEADERS
