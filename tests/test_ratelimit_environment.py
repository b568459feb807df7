"""envoyproxy/ratelimit's environment -> our configuration, and the page that says so."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certificates import Authority
from envoy_gateway import ENVIRONMENT, TRACING
from genops_extauth import config, notation, ratelimit_values
from genops_extauth.environment import Overlay
from genops_extauth.ratelimit_environment import ratelimit_overlay, ratelimit_warnings
from genops_extauth.ratelimit_variables import GROUPS, VARIABLES
from genops_extauth.settings import Config
from genops_extauth.sources import Sources
from genops_extauth.variables import Verdict

SECRET = "hunter2-Zq9"

# src/settings/settings.go at f2fb1577, in the order of the struct's groups.
STRUCT = """
HOST PORT DEBUG_HOST DEBUG_PORT GRPC_HOST GRPC_PORT GRPC_UDS GRPC_MAX_CONNECTION_AGE GRPC_MAX_CONNECTION_AGE_GRACE
GRPC_SERVER_USE_TLS GRPC_SERVER_TLS_CERT GRPC_SERVER_TLS_KEY GRPC_CLIENT_TLS_CACERT GRPC_CLIENT_TLS_SAN
LOG_LEVEL LOG_FORMAT
CONFIG_TYPE FORCE_START_WITHOUT_INITIAL_CONFIG RUNTIME_ROOT RUNTIME_SUBDIRECTORY RUNTIME_APPDIRECTORY
RUNTIME_WATCH_ROOT RUNTIME_IGNOREDOTFILES MERGE_DOMAIN_CONFIG
CONFIG_GRPC_XDS_NODE_ID CONFIG_GRPC_XDS_NODE_METADATA CONFIG_GRPC_XDS_SERVER_URL
CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS
CONFIG_GRPC_XDS_SERVER_USE_TLS CONFIG_GRPC_XDS_CLIENT_TLS_CERT CONFIG_GRPC_XDS_CLIENT_TLS_KEY
CONFIG_GRPC_XDS_SERVER_TLS_CACERT CONFIG_GRPC_XDS_SERVER_TLS_SAN
XDS_CLIENT_BACKOFF_INITIAL_INTERVAL XDS_CLIENT_BACKOFF_MAX_INTERVAL XDS_CLIENT_BACKOFF_RANDOM_FACTOR
XDS_CLIENT_BACKOFF_JITTER XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES
USE_STATSD STATSD_HOST STATSD_PORT USE_DOG_STATSD USE_DOG_STATSD_MOGRIFIERS
USE_PROMETHEUS PROMETHEUS_ADDR PROMETHEUS_PATH PROMETHEUS_MAPPER_YAML PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS
EXTRA_TAGS STATS_FLUSH_INTERVAL DISABLE_STATS
NEAR_LIMIT_RATIO EXPIRATION_JITTER_MAX_SECONDS LOCAL_CACHE_SIZE_IN_BYTES CACHE_KEY_PREFIX
STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT BACKEND_TYPE SHADOW_MODE QUOTA_MODE RESPONSE_DYNAMIC_METADATA
LIMIT_RESPONSE_HEADERS_ENABLED LIMIT_LIMIT_HEADER LIMIT_REMAINING_HEADER LIMIT_RESET_HEADER
HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED REDIS_HEALTH_CHECK_ACTIVE_CONNECTION
REDIS_SOCKET_TYPE REDIS_URL REDIS_TYPE REDIS_POOL_SIZE REDIS_AUTH REDIS_SENTINEL_AUTH
REDIS_TLS REDIS_TLS_CLIENT_CERT REDIS_TLS_CLIENT_KEY REDIS_TLS_CACERT REDIS_TLS_SKIP_HOSTNAME_VERIFICATION
REDIS_TIMEOUT REDIS_PIPELINE_WINDOW REDIS_PIPELINE_LIMIT REDIS_CLUSTER_PIPELINE_PARALLELISM
REDIS_POOL_ON_EMPTY_BEHAVIOR REDIS_STARTUP_INITIAL_INTERVAL REDIS_STARTUP_MAX_INTERVAL REDIS_STARTUP_MAX_ELAPSED_TIME
REDIS_PERSECOND REDIS_PERSECOND_SOCKET_TYPE REDIS_PERSECOND_TYPE REDIS_PERSECOND_URL REDIS_PERSECOND_POOL_SIZE
REDIS_PERSECOND_AUTH REDIS_PERSECOND_TLS REDIS_PERSECOND_SENTINEL_AUTH REDIS_PERSECOND_PIPELINE_WINDOW
REDIS_PERSECOND_PIPELINE_LIMIT REDIS_PERSECOND_CLUSTER_PIPELINE_PARALLELISM REDIS_PERSECOND_TIMEOUT
REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR
MEMCACHE_HOST_PORT MEMCACHE_SRV MEMCACHE_SRV_REFRESH MEMCACHE_MAX_IDLE_CONNS MEMCACHE_TLS MEMCACHE_TLS_CLIENT_CERT
MEMCACHE_TLS_CLIENT_KEY MEMCACHE_TLS_CACERT MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION
TRACING_ENABLED TRACING_SERVICE_NAME TRACING_SERVICE_NAMESPACE TRACING_SERVICE_INSTANCE_ID TRACING_EXPORTER_PROTOCOL
TRACING_SAMPLING_RATE
"""
# Envoy Gateway sets these beside them.
ENVOY_GATEWAY = {"GRPC_SERVER_TLS_CA_CERT", "OTEL_EXPORTER_OTLP_ENDPOINT"}
NAMES = [*STRUCT.split(), *sorted(ENVOY_GATEWAY)]

SERVER = {"REDIS_URL": "redis:6379"}
SENTINEL = {"REDIS_TYPE": "sentinel", "REDIS_URL": "mymaster,a:26379,b:26379"}
PERSECOND = {**SERVER, "REDIS_PERSECOND": "true", "REDIS_PERSECOND_URL": "second:6379"}
XDS = {**SERVER, "CONFIG_TYPE": "GRPC_XDS_SOTW"}
XDS_TLS = {**XDS, "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true"}
TLS = {**SERVER, "REDIS_TLS": "true"}
GRPC_TLS = {
    "GRPC_SERVER_USE_TLS": "true",
    "GRPC_SERVER_TLS_CERT": "/s.pem",
    "GRPC_SERVER_TLS_KEY": "/sk.pem",
    "GRPC_CLIENT_TLS_CACERT": "/cca.pem",
}
PROMETHEUS = {**SERVER, "USE_PROMETHEUS": "true"}

# What stands beside a variable, its value, and where something is seen of it.
SEEN: Mapping[str, tuple[Mapping[str, str], str, tuple[str, object]]] = {
    "HOST": ({}, "::1", ("server.http", "[::1]:8080")),
    "PORT": ({}, "9000", ("server.http", "0.0.0.0:9000")),
    "DEBUG_HOST": ({}, "localhost", ("server.debug", "localhost:6070")),
    "DEBUG_PORT": ({}, "0x10", ("server.debug", "0.0.0.0:16")),
    "GRPC_HOST": ({"GRPC_PORT": "1"}, "10.0.0.1", ("server.grpc", "10.0.0.1:1")),
    "GRPC_PORT": ({}, "50051", ("server.grpc", "0.0.0.0:50051")),
    "GRPC_UDS": ({"GRPC_PORT": "1"}, "/tmp/rl.sock", ("server.grpc", "unix:/tmp/rl.sock")),
    "GRPC_SERVER_USE_TLS": (GRPC_TLS, "T", ("server.tls.cert_file", "/s.pem")),
    "GRPC_SERVER_TLS_CERT": (GRPC_TLS, "/s.pem", ("server.tls.cert_file", "/s.pem")),
    "GRPC_SERVER_TLS_KEY": (GRPC_TLS, "/sk.pem", ("server.tls.key_file", "/sk.pem")),
    "GRPC_CLIENT_TLS_CACERT": (GRPC_TLS, "/cca.pem", ("server.tls.client_ca_file", "/cca.pem")),
    "GRPC_CLIENT_TLS_SAN": (GRPC_TLS, "envoy.example", ("server.tls.client_names", ["envoy.example"])),
    "GRPC_SERVER_TLS_CA_CERT": (
        {name: value for name, value in GRPC_TLS.items() if name != "GRPC_CLIENT_TLS_CACERT"},
        "/egca.pem",
        ("server.tls.client_ca_file", "/egca.pem"),
    ),
    "USE_PROMETHEUS": ({}, "true", ("server.metrics", "0.0.0.0:9090")),
    "PROMETHEUS_ADDR": (PROMETHEUS, "localhost:19001", ("server.metrics", "localhost:19001")),
    "LOG_LEVEL": ({}, "TRACE", ("log.level", "debug")),
    "LOG_FORMAT": ({}, "JSON", ("log.format", "json")),
    "CONFIG_TYPE": ({}, "GRPC_XDS_SOTW", ("rate_limits.xds.server", "localhost:18000")),
    "RUNTIME_ROOT": ({}, "/data/", ("rate_limits.directory", "/data/config")),
    "RUNTIME_SUBDIRECTORY": ({}, "/ratelimit", ("rate_limits.directory", "/srv/runtime_data/current/ratelimit/config")),
    "RUNTIME_APPDIRECTORY": ({"RUNTIME_ROOT": "/data"}, "", ("rate_limits.directory", "/data")),
    "MERGE_DOMAIN_CONFIG": ({}, "T", ("rate_limits.merge_domains", "true")),
    "FORCE_START_WITHOUT_INITIAL_CONFIG": (XDS, "1", ("rate_limits.xds.start_without", "true")),
    "CONFIG_GRPC_XDS_SERVER_URL": (XDS, "dns:///eg:18001", ("rate_limits.xds.server", "eg:18001")),
    "CONFIG_GRPC_XDS_NODE_ID": (XDS, "rl", ("rate_limits.xds.node_id", "rl")),
    "CONFIG_GRPC_XDS_NODE_METADATA": (XDS, "a=b, c=d=e", ("rate_limits.xds.node_metadata", {"a": "b", "c": "d=e"})),
    "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": (XDS, "X-A:b:c", ("rate_limits.xds.headers", {"x-a": "b:c"})),
    "CONFIG_GRPC_XDS_SERVER_USE_TLS": (XDS, "true", ("rate_limits.xds.tls", "true")),
    "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": (XDS_TLS, "/c.pem", ("rate_limits.xds.cert_file", "/c.pem")),
    "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": (XDS_TLS, "/k.pem", ("rate_limits.xds.key_file", "/k.pem")),
    "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": (XDS_TLS, "/ca.pem", ("rate_limits.xds.ca_file", "/ca.pem")),
    "CONFIG_GRPC_XDS_SERVER_TLS_SAN": (XDS_TLS, "eg", ("rate_limits.xds.server_name", "eg")),
    "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": (XDS, "1.5s", ("rate_limits.xds.backoff", "1500ms")),
    "XDS_CLIENT_BACKOFF_MAX_INTERVAL": (XDS, "1m30s", ("rate_limits.xds.backoff_max", "90s")),
    "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES": (XDS, "8388608", ("rate_limits.xds.max_bytes", "8388608")),
    "NEAR_LIMIT_RATIO": ({}, "0.75", ("rate_limits.near_limit_ratio", "0.75")),
    "LOCAL_CACHE_SIZE_IN_BYTES": ({}, "0", ("store.denial_cache", "false")),
    "CACHE_KEY_PREFIX": ({}, "prod:", ("store.key_prefix", "prod")),
    "SHADOW_MODE": ({}, "TRUE", ("rate_limits.shadow_mode", "true")),
    "QUOTA_MODE": ({}, "true", ("rate_limits.quota_mode", "true")),
    "RESPONSE_DYNAMIC_METADATA": ({}, "t", ("rate_limits.dynamic_metadata", "true")),
    "LIMIT_RESPONSE_HEADERS_ENABLED": ({}, "True", ("rate_limits.headers", "true")),
    "LIMIT_LIMIT_HEADER": ({}, "X-Limit", ("rate_limits.header_names.limit", "X-Limit")),
    "LIMIT_REMAINING_HEADER": ({}, "X-Left", ("rate_limits.header_names.remaining", "X-Left")),
    "LIMIT_RESET_HEADER": ({}, "X-Reset", ("rate_limits.header_names.reset", "X-Reset")),
    "REDIS_TYPE": ({"REDIS_URL": "a:1, b:2"}, "Cluster", ("store.url", "redis+cluster://a:1,b:2")),
    "REDIS_URL": ({}, "redis.example:6380", ("store.url", "redis://redis.example:6380/0")),
    "REDIS_AUTH": (SERVER, f"u:{SECRET}:", ("store.password", f"{SECRET}:")),
    "REDIS_SENTINEL_AUTH": (SENTINEL, SECRET, ("store.sentinel_password", SECRET)),
    "REDIS_TLS": (SENTINEL, "1", ("store.url", "redis+sentinel+tls://a:26379,b:26379/mymaster")),
    "REDIS_TLS_CACERT": (TLS, "/ca.pem", ("store.tls.ca_file", "/ca.pem")),
    "REDIS_TLS_CLIENT_CERT": (TLS, "/c.pem", ("store.tls.cert_file", "/c.pem")),
    "REDIS_TLS_CLIENT_KEY": (TLS, "/k.pem", ("store.tls.key_file", "/k.pem")),
    "REDIS_TIMEOUT": (SERVER, "2s", ("store.timeout", "2s")),
    "REDIS_PERSECOND": (PERSECOND, "true", ("store.per_second.url", "redis://second:6379/0")),
    "REDIS_PERSECOND_TYPE": (PERSECOND, "CLUSTER", ("store.per_second.url", "redis+cluster://second:6379")),
    "REDIS_PERSECOND_URL": (PERSECOND, "other:1", ("store.per_second.url", "redis://other:1/0")),
    "REDIS_PERSECOND_AUTH": (PERSECOND, SECRET, ("store.per_second.password", SECRET)),
    "REDIS_PERSECOND_TLS": (PERSECOND, "true", ("store.per_second.url", "rediss://second:6379/0")),
}
UNSEEN = {"REDIS_SOCKET_TYPE", "REDIS_PERSECOND_SOCKET_TYPE", "REDIS_PERSECOND_SENTINEL_AUTH"}
"""They change nothing that is right without them: tests of their own show what they forbid."""


def found(laid: Overlay, setting: str) -> object:
    """What the overlay has at a setting, or the password that is kept for it."""
    if setting in laid.passwords:
        (password,) = laid.passwords[setting].values()
        return password.get_secret_value()
    value: object = laid.data
    for step in setting.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def complaints(environ: Mapping[str, str]) -> dict[str, str]:
    return dict(ratelimit_overlay(environ).complaints)


def test_every_variable_is_in_the_table_once() -> None:
    """The table has each of upstream's 114 variables exactly once, and those that Envoy Gateway adds."""
    assert len(STRUCT.split()) == 114
    assert sorted(variable.name for group in GROUPS.values() for variable in group) == sorted(NAMES)


def test_what_upstream_does_by_itself() -> None:
    """With no variable at all it listens, logs and answers as envoyproxy/ratelimit does, and asks for no identity."""
    laid = ratelimit_overlay({})
    found = Config.model_validate(laid.data, context=Sources())
    assert (str(found.server.grpc), str(found.server.http), str(found.server.debug)) == (
        "0.0.0.0:8081",
        "0.0.0.0:8080",
        "0.0.0.0:6070",
    )
    assert found.server.services == ("rate_limits",)
    assert found.server.json_limits
    assert (found.log.level, found.log.format) == ("warning", "console")
    assert found.rate_limits.directory == "/srv/runtime_data/current/config"
    assert (found.rate_limits.headers, found.rate_limits.retry_after, found.rate_limits.body) == (False, False, "none")
    assert found.rate_limits.near_limit_ratio == 0.8
    assert found.store.url == "embedded:"


def test_every_same_variable_is_seen_below() -> None:
    """Each variable that is the same has a case below."""
    same = {name for name, variable in VARIABLES.items() if variable.verdict is Verdict.SAME}
    assert same == SEEN.keys() | UNSEEN


@pytest.mark.parametrize("name", SEEN)
def test_same_variables_have_their_effect(name: str) -> None:
    """A variable that is the same changes its setting."""
    beside, value, (setting, expected) = SEEN[name]
    laid = ratelimit_overlay({**beside, name: value})
    assert laid.complaints == []
    assert found(laid, setting) == expected
    without = {other: text for other, text in beside.items() if other != name}
    assert found(ratelimit_overlay(without), setting) != expected, "the case shows nothing"


@pytest.mark.parametrize("source", [{"RUNTIME_ROOT": "/data"}, XDS_TLS])
def test_whole_environments_are_configurations(source: Mapping[str, str]) -> None:
    """An environment with a bit of everything is a right configuration."""
    environ = {
        name: value
        for name, (_, value, _) in SEEN.items()
        if not name.startswith(("CONFIG_", "GRPC_", "REDIS_", "XDS_"))
    }
    environ |= {
        "GRPC_PORT": "1",
        "PORT": "2",
        "DEBUG_PORT": "3",
        **PERSECOND,
        "REDIS_TLS": "true",
        "REDIS_AUTH": SECRET,
    }
    environ |= {"REDIS_TLS_CLIENT_CERT": "/c.pem", "REDIS_TLS_CLIENT_KEY": "/k.pem", "REDIS_TIMEOUT": "250ms", **source}
    environ |= {name: SEEN[name][1] for name in SEEN if name.startswith(("CONFIG_GRPC_XDS_NODE", "XDS_CLIENT_BACKOFF"))}
    laid = ratelimit_overlay(environ)
    found = Config.model_validate(laid.data, context=Sources(environ=environ, passwords=laid.passwords))
    assert found.store.password is not None
    assert (found.store.url, found.store.timeout, found.store.denial_cache) == ("rediss://redis:6379/0", 0.25, False)
    assert (found.rate_limits.xds is None) == (source is not XDS_TLS)


def test_origins() -> None:
    """Each setting knows a variable that it came from, so that an error of the configuration names it."""
    laid = ratelimit_overlay(
        {**PERSECOND, "PORT": "1", "DEBUG_HOST": "x", "GRPC_UDS": "/s", "LIMIT_RESET_HEADER": "a b"}
    )
    origins = {".".join(map(str, path)): name for path, name in laid.origins.items()}
    assert origins == {
        "server.http": "PORT",
        "server.debug": "DEBUG_HOST",
        "server.grpc": "GRPC_UDS",
        "store.url": "REDIS_URL",
        "store.per_second.url": "REDIS_PERSECOND_URL",
        "rate_limits.header_names.reset": "LIMIT_RESET_HEADER",
    }


@pytest.mark.parametrize(
    ("environ", "name", "way_out"),
    [
        ({"BACKEND_TYPE": "memcache"}, "BACKEND_TYPE", "set it to redis, and REDIS_URL to a Redis or Valkey"),
        (
            {**TLS, "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION": "t"},
            "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION",
            "store.tls.server_name",
        ),
    ],
)
def test_what_is_refused(environ: Mapping[str, str], name: str, way_out: str) -> None:
    """What cannot be had is an error that names the variable and the way out; its default is none."""
    assert VARIABLES[name].verdict is Verdict.REFUSED
    assert complaints(environ).keys() == {name}
    assert way_out in complaints(environ)[name]
    assert complaints({name: VARIABLES[name].default}) == {}


def test_every_refused_variable_is_above() -> None:
    """These two are all that is refused, the last of them only where there is TLS."""
    refused = {name for name, variable in VARIABLES.items() if variable.verdict is Verdict.REFUSED}
    assert refused == {"BACKEND_TYPE", "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION"}
    assert complaints({**SERVER, "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION": "true"}) == {}


@pytest.mark.parametrize(
    ("environ", "name", "hint"),
    [
        ({"PORT": "http"}, "PORT", "write a whole number"),
        ({"PORT": ""}, "PORT", "is set but empty"),
        ({"SHADOW_MODE": "yes"}, "SHADOW_MODE", "write true or false"),
        ({"NEAR_LIMIT_RATIO": "most"}, "NEAR_LIMIT_RATIO", "write a number"),
        ({"NEAR_LIMIT_RATIO": "nan"}, "NEAR_LIMIT_RATIO", "write a number"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL", "write debug, info, warn or error"),
        ({"CONFIG_TYPE": "file"}, "CONFIG_TYPE", "write FILE or GRPC_XDS_SOTW"),
        ({**XDS, "XDS_CLIENT_BACKOFF_MAX_INTERVAL": "60"}, "XDS_CLIENT_BACKOFF_MAX_INTERVAL", "write a duration"),
        ({**XDS, "CONFIG_GRPC_XDS_NODE_METADATA": "a:b"}, "CONFIG_GRPC_XDS_NODE_METADATA", "a=b,c=d"),
        ({"REDIS_AUTH": SECRET}, "REDIS_URL", "is not set, and REDIS_AUTH is"),
        ({"REDIS_SOCKET_TYPE": "unix"}, "REDIS_URL", "is not set, and REDIS_SOCKET_TYPE is"),
        ({"REDIS_PERSECOND": "1"}, "REDIS_URL", "is not set, and REDIS_PERSECOND is"),
        ({**SERVER, "REDIS_PERSECOND": "1"}, "REDIS_PERSECOND_URL", "is not set, and REDIS_PERSECOND is"),
        ({"REDIS_URL": ""}, "REDIS_URL", "is set but empty"),
        ({"REDIS_URL": f"user:{SECRET}@"}, "REDIS_URL", "redis://HOST:PORT"),
        ({"REDIS_URL": "redis:6379", "REDIS_SOCKET_TYPE": "unix"}, "REDIS_URL", "or REDIS_SOCKET_TYPE=tcp"),
        ({"REDIS_URL": "/run/r.sock", "REDIS_SOCKET_TYPE": "tcp"}, "REDIS_URL", "or REDIS_SOCKET_TYPE=unix"),
        ({**PERSECOND, "REDIS_PERSECOND_SOCKET_TYPE": "unix"}, "REDIS_PERSECOND_URL", "is no absolute path"),
        ({"REDIS_URL": "/run/r.sock", "REDIS_TLS": "true"}, "REDIS_URL", "set REDIS_TLS to false"),
        ({"REDIS_URL": "a:1", "REDIS_TYPE": "ring"}, "REDIS_URL", "write SINGLE, SENTINEL or CLUSTER"),
        ({"REDIS_URL": "mymaster", "REDIS_TYPE": "SENTINEL"}, "REDIS_URL", "HOST:PORT/MASTER"),
        ({**SENTINEL, "REDIS_SENTINEL_AUTH": f"u:{SECRET}"}, "REDIS_SENTINEL_AUTH", "without a user"),
    ],
)
def test_what_is_wrong(environ: Mapping[str, str], name: str, hint: str) -> None:
    """What cannot be used is an error that names the variable and what to write; a store that is nowhere, too."""
    found = complaints(environ)
    assert name in found
    assert hint in found[name]


@given(
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([f"u:{SECRET}@", f"{SECRET} ", f"{SECRET}:1,x", "true"]))
)
def test_secrets_do_not_show(environ: dict[str, str]) -> None:
    """Whatever is set to a secret by mistake, no complaint, warning or error of the store repeats it."""
    laid = ratelimit_overlay(environ)
    assert SECRET not in repr((laid.complaints, laid.passwords))
    assert SECRET not in repr(ratelimit_warnings(environ))


@pytest.mark.parametrize("name", ["REDIS_AUTH", "REDIS_PERSECOND_AUTH"])
def test_passwords_are_kept_apart(name: str) -> None:
    """A password is no part of the data, nor of what an overlay shows; the user is."""
    laid = ratelimit_overlay({**PERSECOND, name: f"user:{SECRET}"})
    assert SECRET not in repr(laid)
    assert "user@" in repr(laid.data)


def test_the_url_of_a_store_may_hold_its_password() -> None:
    """A login in REDIS_URL counts, unless REDIS_AUTH says otherwise."""
    within = ratelimit_overlay({"REDIS_URL": f"redis://me:{SECRET}@redis:6379/2"})
    assert found(within, "store.url") == "redis://me@redis:6379/2"
    assert found(within, "store.password") == SECRET
    beside = ratelimit_overlay({"REDIS_URL": "me:old@redis:6379", "REDIS_AUTH": SECRET})
    assert (found(beside, "store.url"), found(beside, "store.password")) == ("redis://redis:6379/0", SECRET)


def test_an_embedded_store_can_be_named() -> None:
    """REDIS_URL may name our embedded store, which then keeps its data, and nothing is warned of."""
    assert found(ratelimit_overlay({"REDIS_URL": "embedded:/data"}), "store.url") == "embedded:/data"
    assert ratelimit_warnings({"REDIS_URL": "embedded:/data"}) == ()


def test_sentinels_have_one_password() -> None:
    """The Sentinels of both stores are asked with one password: another one for the second is an error."""
    both = {
        **SENTINEL,
        "REDIS_SENTINEL_AUTH": SECRET,
        "REDIS_PERSECOND": "true",
        "REDIS_PERSECOND_TYPE": "SENTINEL",
        "REDIS_PERSECOND_URL": "second,c:26379",
    }
    same = ratelimit_overlay({**both, "REDIS_PERSECOND_SENTINEL_AUTH": SECRET})
    assert (same.complaints, found(same, "store.sentinel_password")) == ([], SECRET)
    assert found(same, "store.per_second.url") == "redis+sentinel://c:26379/second"
    assert (
        "make it that of REDIS_SENTINEL_AUTH"
        in complaints({**both, "REDIS_PERSECOND_SENTINEL_AUTH": "other"})["REDIS_PERSECOND_SENTINEL_AUTH"]
    )


@pytest.mark.parametrize("value", ["0", "30s", "1h", "1000000h", "2562047h47m16s"])
def test_waits_are_bounded(value: str) -> None:
    """A timeout of none, or of more than ten seconds, is ten seconds, and a warning says so."""
    environ = {**SERVER, "REDIS_TIMEOUT": value}
    assert found(ratelimit_overlay(environ), "store.timeout") == "10s"
    assert ratelimit_warnings(environ) == ("REDIS_TIMEOUT: an answer of the store is waited for 10s at most",)


def test_files_are_of_no_concern_to_xds() -> None:
    """Limits come from a directory or over xDS, never from both; certificates count only where there is TLS."""
    laid = ratelimit_overlay({**XDS, "RUNTIME_ROOT": "/data", "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "/ca.pem"})
    assert found(laid, "rate_limits.directory") is None
    assert found(laid, "rate_limits.xds") == {"server": "localhost:18000"}
    assert found(ratelimit_overlay({"CONFIG_GRPC_XDS_NODE_ID": "x"}), "rate_limits.xds") is None


@pytest.mark.parametrize("lacking", ["GRPC_SERVER_TLS_CERT", "GRPC_SERVER_TLS_KEY"])
def test_tls_is_never_left_out(lacking: str) -> None:
    """Who asks for TLS to the gateway and names no certificate, or no key, is not served without."""
    assert complaints({**GRPC_TLS, lacking: ""}) == {
        lacking: "is not set, and GRPC_SERVER_USE_TLS is: write the path of the file"
    }


def test_certificates_count_only_with_tls() -> None:
    """Certificates for the gateway's side are of no concern where there is no TLS."""
    assert found(ratelimit_overlay({**GRPC_TLS, "GRPC_SERVER_USE_TLS": "false"}), "server.tls") is None


def test_a_client_s_name_needs_its_authority(tmp_path: Path) -> None:
    """GRPC_CLIENT_TLS_SAN without authorities of clients is an error, where upstream would look at nobody."""
    pair = Authority(tmp_path).issue("limiter")
    (empty := tmp_path / "empty").mkdir()
    named = {
        "GRPC_SERVER_USE_TLS": "true",
        "GRPC_SERVER_TLS_CERT": str(pair.certificate),
        "GRPC_SERVER_TLS_KEY": str(pair.key),
        "GRPC_CLIENT_TLS_SAN": "envoy",
        "RUNTIME_ROOT": str(empty),
        "RUNTIME_APPDIRECTORY": "",
    }
    assert problems(named) == {"env GRPC_CLIENT_TLS_SAN": "nobody vouches for a name: write client_ca_file too"}


def test_certificates_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    """Files of certificates that are not there are errors that name their variables."""
    environ = {**GRPC_TLS, "RUNTIME_ROOT": str(tmp_path), "RUNTIME_APPDIRECTORY": ""}
    message = "cannot be read: No such file or directory"
    assert problems(environ) == {f"env {name}": message for name in list(GRPC_TLS)[1:]}


def problems(environ: Mapping[str, str]) -> dict[str, str]:
    """What `genops-extauth ratelimit` says of an environment before it does not start."""
    with pytest.raises(config.ConfigError) as caught:
        config.load(None, environ, lambda _, given: ratelimit_overlay(given))
    return {problem.path: problem.message for problem in caught.value.problems}


def test_envoy_gateway_s_own() -> None:
    """Envoy Gateway's environment is understood as it stands: its ports, its certificates, its management server."""
    laid = ratelimit_overlay(ENVIRONMENT)
    assert laid.complaints == []
    section = laid.data["server"]
    assert isinstance(section, dict)
    assert section == {
        "services": ["rate_limits"],
        "json_limits": "true",
        "grpc": "0.0.0.0:8081",
        "http": "0.0.0.0:8080",
        "debug": "0.0.0.0:6070",
        "metrics": "0.0.0.0:19001",
        "tls": {"cert_file": "/certs/tls.crt", "key_file": "/certs/tls.key", "client_ca_file": "/certs/ca.crt"},
    }
    assert found(laid, "rate_limits.xds") == {
        "server": "envoy-gateway:18001",
        "start_without": "true",
        "node_id": "envoy-ratelimit",
        "tls": "true",
        "cert_file": "/certs/tls.crt",
        "key_file": "/certs/tls.key",
        "ca_file": "/certs/ca.crt",
    }
    assert found(laid, "store.url") == "redis://redis.redis.svc:6379/0"
    assert found(laid, "log.level") == "info"


def test_envoy_gateway_s_own_warnings() -> None:
    """What its users miss here: a mapping of their own, and traces where they want them."""
    assert [each.partition(":")[0] for each in ratelimit_warnings({**ENVIRONMENT, **TRACING})] == [
        "PROMETHEUS_MAPPER_YAML",
        "TRACING_ENABLED",
    ]
    assert complaints({**ENVIRONMENT, **TRACING}) == {}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"USE_STATSD": "1", "STATSD_HOST": "exporter"}, "USE_STATSD, STATSD_HOST: statsd is not spoken"),
        ({"STATSD_HOST": "exporter"}, "STATSD_HOST: statsd is not spoken"),
        ({"USE_DOG_STATSD": "true"}, "USE_DOG_STATSD: statsd is not spoken"),
        ({**PROMETHEUS, "PROMETHEUS_PATH": "/stats"}, "PROMETHEUS_PATH: the path of the metrics is /metrics"),
        ({"PROMETHEUS_MAPPER_YAML": "/m.yaml"}, "PROMETHEUS_MAPPER_YAML: metrics are not renamed"),
        ({"EXTRA_TAGS": "a:b"}, "EXTRA_TAGS: metrics get no further labels"),
        ({"TRACING_ENABLED": "true"}, "TRACING_ENABLED: no traces"),
        ({"GRPC_MAX_CONNECTION_AGE": "1m"}, "GRPC_MAX_CONNECTION_AGE: connections are not closed"),
        ({"STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "false"}, "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT: a refused"),
    ],
)
def test_what_is_missed_is_told(environ: Mapping[str, str], said: str) -> None:
    """Who set something that has no effect here, and would miss it, is warned once."""
    (warning,) = ratelimit_warnings({**SERVER, **environ})
    assert warning.startswith(said)


@pytest.mark.parametrize(
    "environ",
    [
        {"USE_STATSD": "false", "STATSD_HOST": "exporter"},
        {"PROMETHEUS_ADDR": ":1", "PROMETHEUS_PATH": "/stats"},
        {**PROMETHEUS, "PROMETHEUS_ADDR": ":1"},
        {"USE_STATSD": "false", "REDIS_POOL_SIZE": "100", "EXPIRATION_JITTER_MAX_SECONDS": "0", "DISABLE_STATS": "1"},
        {"STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "true", "TRACING_SERVICE_NAME": "rl", "MEMCACHE_SRV": "x"},
        {name: variable.default for name, variable in VARIABLES.items() if variable.default and name != "USE_STATSD"}
        | {"REDIS_URL": "redis:6379", "REDIS_SOCKET_TYPE": "tcp", "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "true"},
    ],
)
def test_what_is_harmless_is_not_told(environ: Mapping[str, str]) -> None:
    """Nobody is warned of what makes no difference, nor of upstream's defaults written out."""
    assert ratelimit_warnings({**SERVER, **environ}) == ()
    assert complaints({**SERVER, **environ}) == {}


def test_a_store_of_its_own_is_told() -> None:
    """Without a store that replicas share, a warning says that each of them admits as much again."""
    (warning,) = ratelimit_warnings({})
    assert warning.startswith("REDIS_URL: is not set")


@given(st.integers(0, 9_223_372_036_854), st.sampled_from([("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)]))
def test_durations(milliseconds: int, unit: tuple[str, int]) -> None:
    """A duration of Go's, up to its longest, is the same duration in our notation; from eleven days on, in seconds."""
    name, each = unit
    exact = milliseconds - milliseconds % each
    said = notation.duration(ratelimit_values.duration(f"{exact // each}{name}"))
    assert said == pytest.approx(exact / 1000 if exact < 10**9 else -(-exact // 1000), rel=1e-12)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0s"),
        ("150us", "1ms"),
        ("1.5h", "5400s"),
        (".5s", "500ms"),
        ("1m30s", "90s"),
        ("2\u00b5s", "1ms"),
        ("+3s", "3s"),
    ],
)
def test_durations_by_example(text: str, value: str) -> None:
    """Fractions and small units are read as Go reads them, and rounded up to a millisecond."""
    assert ratelimit_values.duration(text) == value


@pytest.mark.parametrize("text", ["5", "-5s", "s", "1 s", "1e3s", "1.2.3s", "1d", "5s\n"])
def test_what_is_no_duration(text: str) -> None:
    """Whatever Go would not read, or is negative, is refused with an example."""
    with pytest.raises(ValueError, match=r"write a duration, for example 250ms, 10s or 1m30s"):
        ratelimit_values.duration(text)


def test_what_is_too_long_a_duration() -> None:
    """A duration beyond Go's int64 of nanoseconds is refused, as Go refuses it."""
    with pytest.raises(ValueError, match="write a shorter one"):
        ratelimit_values.duration("2562048h")
