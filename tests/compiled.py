"""Envoy's configuration as each gateway makes it of the resources in deploy/.

Emissary, Envoy Gateway and Istio are not at hand, so the few things that deploy/ asks of them are done here as they do
them; what the patches of Envoy Gateway and Istio hold goes in as it stands.
"""

from typing import Any

from manifests import DEPLOY, Manifest, build, one, read

PLAIN = DEPLOY.parent / "docs" / "gateways" / "envoy.yaml"

_TYPE = "type.googleapis.com/"
_MANAGER = _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": _TYPE + "envoy.extensions.filters.http.router.v3.Router"},
}
_HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def plain() -> Manifest:
    (bootstrap,) = read(PLAIN)
    return bootstrap


def ambassador() -> Manifest:
    built = build(DEPLOY / "ambassador")
    auth, limiter, mapping = (one(built, kind)["spec"] for kind in ("AuthService", "RateLimitService", "Mapping"))
    service = {"envoy_grpc": {"cluster_name": "genops-extauth"}}
    authorization = _authorization(
        "envoy.filters.http.ext_authz",
        service,
        timeout=f"{auth['timeout_ms'] / 1000}s",
        failure_mode_allow=auth["failure_mode_allow"],
        status_on_error=auth["status_on_error"],
        clear_route_cache=True,
    )
    limit = {
        "name": "envoy.filters.http.ratelimit",
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
            "domain": limiter["domain"],
            "timeout": f"{limiter['timeout_ms'] / 1000}s",
            "failure_mode_deny": limiter["failure_mode_deny"],
            "rate_limit_service": {"transport_api_version": "V3", "grpc_service": service},
        },
    }
    bootstrap = _bootstrap([authorization, limit], _cluster("genops-extauth"))
    groups = mapping["labels"][limiter["domain"]]
    _host(bootstrap)["rate_limits"] = [
        {"actions": [_action(specifier) for specifier in specifiers]}
        for group in groups
        for specifiers in group.values()
    ]
    return bootstrap


def _action(specifier: Manifest) -> Manifest:
    ((name, value),) = specifier.items()
    if name == "request_headers":
        return {name: {"header_name": value["header_name"], "descriptor_key": value["key"]}}
    assert name == "remote_address"
    return {name: {}}


def gateway_api() -> Manifest:
    built = build(DEPLOY / "gateway-api")
    auth = one(built, "SecurityPolicy")["spec"]["extAuth"]
    authorization = _authorization(
        "envoy.filters.http.ext_authz/securitypolicy/ai/genops-auth",
        {"envoy_grpc": {"cluster_name": "securitypolicy"}},
        timeout=f"{int(auth['timeout'].removesuffix('ms')) / 1000}s",
        failure_mode_allow=auth["failOpen"],
        status_on_error={"code": auth["statusOnError"]},
    )
    bootstrap = _bootstrap([authorization], _cluster("securitypolicy"))
    for patch in one(built, "EnvoyPatchPolicy")["spec"]["jsonPatches"]:
        _patch(bootstrap, patch)
    return bootstrap


def _patch(bootstrap: Manifest, patch: Manifest) -> None:
    """Apply one JSON patch of Envoy Gateway: those that deploy/ has, and no other."""
    operation = patch["operation"]
    assert operation["op"] == "add"
    match patch["type"].rpartition(".")[2], operation.get("jsonPath"), operation.get("path"):
        case "Cluster", None, "":
            bootstrap["static_resources"]["clusters"].append(operation["value"])
        case "Listener", "..http_filters[?(@.name=='envoy.filters.http.router')]", None:
            _before_router(bootstrap, operation["value"])
        case "RouteConfiguration", "virtual_hosts[*]", "/rate_limits":
            _host(bootstrap)["rate_limits"] = operation["value"]
        case other:
            raise AssertionError(f"no such patch is known here: {other}")


def istio() -> Manifest:
    (mesh,) = read(DEPLOY / "istio" / "mesh.values.yaml")
    (provider,) = mesh["meshConfig"]["extensionProviders"]
    auth = provider["envoyExtAuthzGrpc"]
    cluster = f"outbound|{auth['port']}||{auth['service']}"
    authorization = _authorization(
        "envoy.filters.http.ext_authz",
        {"envoy_grpc": {"cluster_name": cluster, "authority": cluster.replace("|", "_.")}},
        timeout=auth["timeout"],
        failure_mode_allow=auth["failOpen"],
        status_on_error={"code": int(auth["statusOnError"])},
    )
    bootstrap = _bootstrap([authorization], _cluster(cluster))
    for patch in one(build(DEPLOY / "istio"), "EnvoyFilter")["spec"]["configPatches"]:
        _merge(bootstrap, patch["applyTo"], patch["patch"])
    return bootstrap


def _merge(bootstrap: Manifest, target: str, patch: Manifest) -> None:
    """Apply one patch of an EnvoyFilter: those that deploy/ has, and no other."""
    match target, patch["operation"]:
        case "HTTP_FILTER", "INSERT_BEFORE":
            _before_router(bootstrap, patch["value"])
        case "VIRTUAL_HOST", "MERGE":
            _host(bootstrap).update(patch["value"])
        case "NETWORK_FILTER", "MERGE":
            _manager(bootstrap).update(patch["value"]["typed_config"])
        case other:
            raise AssertionError(f"no such patch is known here: {other}")


def _authorization(name: str, service: Manifest, *, timeout: str, **settings: Any) -> Manifest:
    return {
        "name": name,
        "typed_config": {
            "@type": _TYPE + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {**service, "timeout": timeout},
            **settings,
        },
    }


def _bootstrap(filters: list[Manifest], *clusters: Manifest) -> Manifest:
    host = {
        "name": "ai",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "ai-inference"}}],
    }
    manager = {
        "@type": _MANAGER,
        "stat_prefix": "ingress",
        "use_remote_address": True,
        "http_filters": [*filters, _ROUTER],
        "route_config": {"name": "ingress", "virtual_hosts": [host]},
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    upstream = {"name": "ai-inference", "load_assignment": {"cluster_name": "ai-inference", "endpoints": []}}
    return {
        "static_resources": {
            "listeners": [{"name": "ingress", "filter_chains": [chain]}],
            "clusters": [*clusters, upstream],
        }
    }


def _cluster(name: str) -> Manifest:
    return {"name": name, "typed_extension_protocol_options": _HTTP2, "load_assignment": {"cluster_name": name}}


def _manager(bootstrap: Manifest) -> Manifest:
    (listener,) = bootstrap["static_resources"]["listeners"]
    manager: Manifest = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _host(bootstrap: Manifest) -> Manifest:
    host: Manifest = _manager(bootstrap)["route_config"]["virtual_hosts"][0]
    return host


def _before_router(bootstrap: Manifest, http_filter: Manifest) -> None:
    _manager(bootstrap)["http_filters"].insert(-1, http_filter)


def rewired(bootstrap: Manifest, sidecar: int, upstream: int) -> Manifest:
    """Send every cluster to a port of this machine, and listen on free ones."""
    for cluster in bootstrap["static_resources"]["clusters"]:
        port = upstream if cluster["name"] == "ai-inference" else sidecar
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        cluster["type"] = "STATIC"
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    for place in (*bootstrap["static_resources"]["listeners"], bootstrap.setdefault("admin", {})):
        place["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return bootstrap
