"""What Envoy Gateway 1.9.1 gives its rate limit service, and what it makes Envoy ask.

From internal/infrastructure/kubernetes/ratelimit/testdata/deployments/default.yaml, and from the pairs of files
internal/xds/translator/testdata/out/ratelimit-config/value-match*.yaml and .../xds-ir/jwt-ratelimit.*.yaml, all of them
at v1.9.1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from certificates import Pair
from gateway import Change, ingress
from manifests import Manifest

COMMAND = "/bin/ratelimit"
HEALTH = "/healthcheck"  # at PORT; each of the container's three probes asks there
ENVIRONMENT: Mapping[str, str] = {
    "RUNTIME_ROOT": "/data",
    "RUNTIME_SUBDIRECTORY": "ratelimit",
    "RUNTIME_IGNOREDOTFILES": "true",
    "RUNTIME_WATCH_ROOT": "false",
    "LOG_LEVEL": "info",
    "USE_STATSD": "false",
    "CONFIG_TYPE": "GRPC_XDS_SOTW",
    "CONFIG_GRPC_XDS_SERVER_URL": "envoy-gateway:18001",
    "CONFIG_GRPC_XDS_NODE_ID": "envoy-ratelimit",
    "GRPC_SERVER_USE_TLS": "true",
    "GRPC_SERVER_TLS_CERT": "/certs/tls.crt",
    "GRPC_SERVER_TLS_KEY": "/certs/tls.key",
    "GRPC_SERVER_TLS_CA_CERT": "/certs/ca.crt",
    "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true",
    "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "/certs/tls.crt",
    "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "/certs/tls.key",
    "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "/certs/ca.crt",
    "FORCE_START_WITHOUT_INITIAL_CONFIG": "true",
    "REDIS_SOCKET_TYPE": "tcp",
    "REDIS_URL": "redis.redis.svc:6379",
    "USE_PROMETHEUS": "true",
    "PROMETHEUS_ADDR": ":19001",
    "PROMETHEUS_MAPPER_YAML": "/etc/statsd-exporter/conf.yaml",
}
"""In its order."""

TRACING: Mapping[str, str] = {
    "TRACING_ENABLED": "true",
    "TRACING_SERVICE_NAME": "envoy-ratelimit",
    "TRACING_SERVICE_NAMESPACE": "envoy-gateway-system",
    "TRACING_SERVICE_INSTANCE_ID": "envoy-ratelimit-0",
    "TRACING_SAMPLING_RATE": "0.6",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://trace-collector.envoy-gateway-system.svc.cluster.local:4318",
}
"""What it adds where its operator wants traces (enable-tracing.yaml)."""

DOMAIN, ROUTE, RULE = "first-listener", "first-route", "rule-0-match-0"


def rule(requests: int, unit: str) -> Mapping[str, Any]:
    """The RateLimitConfig of one rule: requests of the user `one`, on the first route."""
    limited = {"key": RULE, "value": RULE, "rate_limit": {"requests_per_unit": requests, "unit": unit}}
    return {
        "name": DOMAIN,
        "domain": DOMAIN,
        "descriptors": [{"key": ROUTE, "value": ROUTE, "descriptors": [limited]}],
    }


def asking(client: Pair, authority: Path) -> Change:
    """Let an Envoy ask as Envoy Gateway's do: over TLS, with a certificate, and for the rule's descriptor.

    There the certificate comes over SDS; here it is a file.
    """

    def change(bootstrap: Manifest) -> None:
        manager = ingress(bootstrap)
        (limiter,) = (each for each in manager["http_filters"] if each["name"].endswith("ratelimit"))
        asked = limiter["typed_config"]
        limiter["typed_config"] = {
            "@type": asked["@type"],
            "disable_x_envoy_ratelimited_header": True,
            "domain": DOMAIN,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "rate_limit_service": asked["rate_limit_service"],
            "timeout": asked["timeout"],  # the test's patience
        }
        manager["http_filters"] = [limiter, manager["http_filters"][-1]]
        del manager["early_header_mutation_extensions"]  # It takes the user's name away.
        (host,) = manager["route_config"]["virtual_hosts"]
        del host["rate_limits"]
        (route,) = host["routes"]
        route["typed_per_filter_config"] = {"envoy.filters.http.ratelimit": _descriptor()}
        (cluster,) = (each for each in bootstrap["static_resources"]["clusters"] if each["name"] == "genops-extauth")
        del cluster["health_checks"]
        cluster["transport_socket"] = _secured(client, authority)

    return change


def _descriptor() -> Manifest:
    user = {"name": "x-user-id", "string_match": {"exact": "one"}}
    matched = {"descriptor_key": RULE, "descriptor_value": RULE, "expect_match": True, "headers": [user]}
    named = {"descriptor_key": ROUTE, "descriptor_value": ROUTE}
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
        "domain": DOMAIN,
        "rate_limits": [{"actions": [{"generic_key": named}, {"header_value_match": matched}]}],
    }


def _secured(client: Pair, authority: Path) -> Manifest:
    shown = {"certificate_chain": {"filename": str(client.certificate)}, "private_key": {"filename": str(client.key)}}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [shown],
                "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                "validation_context": {"trusted_ca": {"filename": str(authority)}},
            },
        },
    }
