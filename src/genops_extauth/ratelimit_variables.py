"""Every environment variable of envoyproxy/ratelimit, and what becomes of it here.

Names, defaults and meanings are those of its src/settings/settings.go at f2fb1577 (2026-07-05). What this table says is
what `ratelimit_environment` does, and what docs/ratelimit-environment.md shows.
"""

from typing import Final

from genops_extauth.ratelimit_values import (
    boolean,
    config_type,
    duration,
    headers,
    integer,
    level,
    listening,
    log_format,
    number,
    one,
    prefix,
    properties,
    some_bytes,
    target,
    text,
)
from genops_extauth.variables import Variable, Verdict, ignored, same

_ANYWHERE: Final = "0.0.0.0"  # noqa: S104 - upstream's default, and this stands in for it
_ONE_PIPELINE: Final = "Requests of one moment share one script call on one connection."
_SCRAPE: Final = (
    "statsd is not spoken: scrape /metrics on HOST:PORT, which has the names of upstream's Prometheus mapping"
)
_AT_METRICS: Final = "the path of the metrics is /metrics: change what scrapes them"
_ONLY_MEMCACHE: Final = "Of BACKEND_TYPE=memcache only, which is refused."
_ONLY_TRACING: Final = "Of TRACING_ENABLED only."
_STARTED: Final = "Serves at once, on its outage terms until the store is there."
_TLS: Final = ("GRPC_SERVER_USE_TLS",)
_XDS_TLS: Final = ("CONFIG_GRPC_XDS_SERVER_USE_TLS",)
_REDIS_TLS: Final = ("REDIS_TLS", "REDIS_PERSECOND_TLS")

LISTENING: Final = (
    same("HOST", _ANYWHERE, "server.http"),
    same("PORT", "8080", "server.http", "With /json and /healthcheck.", integer),
    same("DEBUG_HOST", _ANYWHERE, "server.debug"),
    same("DEBUG_PORT", "6070", "server.debug", "With /rlconfig and /stats; there is no /debug/pprof.", integer),
    same("GRPC_HOST", _ANYWHERE, "server.grpc"),
    same("GRPC_PORT", "8081", "server.grpc", read=integer),
    same("GRPC_UDS", "", "server.grpc", "The path of a socket; it wins over host and port."),
    *ignored(
        "GRPC_MAX_CONNECTION_AGE",
        "24h",
        "Connections last as long as clients want.",
        warning="connections are not closed for their age: set max_connection_duration on the gateway's cluster",
    ),
    *ignored("GRPC_MAX_CONNECTION_AGE_GRACE", "1h", "As GRPC_MAX_CONNECTION_AGE."),
    same("GRPC_SERVER_USE_TLS", "false", "server.tls", "Also on a socket. The faster transport has no TLS.", boolean),
    same(
        "GRPC_SERVER_TLS_CERT",
        "",
        "server.tls.cert_file",
        "Read anew for each connection, as all of these.",
        needs=_TLS,
    ),
    same("GRPC_SERVER_TLS_KEY", "", "server.tls.key_file", "In any folder.", needs=_TLS),
    same(
        "GRPC_CLIENT_TLS_CACERT",
        "",
        "server.tls.client_ca_file",
        "Its authorities alone, not the system's too.",
        needs=_TLS,
    ),
    same("GRPC_CLIENT_TLS_SAN", "", "server.tls.client_names", "Looked at for each call.", one, needs=_TLS),
    same("LOG_LEVEL", "WARN", "log.level", "`panic` and `fatal` are error, `trace` is debug.", level),
    same("LOG_FORMAT", "text", "log.format", "`json`, or `console` for all else; the fields are ours.", log_format),
)

CONFIGURATION: Final = (
    same("CONFIG_TYPE", "FILE", "rate_limits.xds", "`GRPC_XDS_SOTW`, or files (`FILE`).", config_type),
    same("RUNTIME_ROOT", "/srv/runtime_data/current", "rate_limits.directory"),
    same("RUNTIME_SUBDIRECTORY", "", "rate_limits.directory", "Below RUNTIME_ROOT."),
    same("RUNTIME_APPDIRECTORY", "config", "rate_limits.directory", "Below RUNTIME_SUBDIRECTORY.", blank=True),
    *ignored(
        "RUNTIME_WATCH_ROOT",
        "true",
        "A swapped link and an edited file are both seen. Errors name a file as it is: `x.yaml`, not `config.x.yaml`.",
    ),
    Variable(
        "RUNTIME_IGNOREDOTFILES",
        "false",
        Verdict.IGNORED,
        note="Names with a dot in front are passed over, always.",
        read=boolean,
    ),
    same("MERGE_DOMAIN_CONFIG", "false", "rate_limits.merge_domains", read=boolean),
    *ignored(
        "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED",
        "false",
        "Always so: no limits, no start; with xDS, not ready before the first answer.",
    ),
)

XDS: Final = (
    same(
        "FORCE_START_WITHOUT_INITIAL_CONFIG",
        "false",
        "rate_limits.xds.start_without",
        "Of files an empty directory will do, and one that does not load is an error.",
        boolean,
    ),
    same("CONFIG_GRPC_XDS_SERVER_URL", "localhost:18000", "rate_limits.xds.server", read=target),
    same("CONFIG_GRPC_XDS_NODE_ID", "default", "rate_limits.xds.node_id"),
    same("CONFIG_GRPC_XDS_NODE_METADATA", "", "rate_limits.xds.node_metadata", "`k=v,...`", properties),
    same("CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS", "", "rate_limits.xds.headers", "`k:v,...`", headers),
    same("CONFIG_GRPC_XDS_SERVER_USE_TLS", "false", "rate_limits.xds.tls", read=boolean),
    same("CONFIG_GRPC_XDS_CLIENT_TLS_CERT", "", "rate_limits.xds.cert_file", needs=_XDS_TLS),
    same("CONFIG_GRPC_XDS_CLIENT_TLS_KEY", "", "rate_limits.xds.key_file", needs=_XDS_TLS),
    same("CONFIG_GRPC_XDS_SERVER_TLS_CACERT", "", "rate_limits.xds.ca_file", needs=_XDS_TLS),
    same("CONFIG_GRPC_XDS_SERVER_TLS_SAN", "", "rate_limits.xds.server_name", needs=_XDS_TLS),
    Variable(
        "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL",
        "3s",
        Verdict.REPLACED,
        "rate_limits.xds.backoff",
        "Streams and connections wait alike.",
    ),
    same("XDS_CLIENT_BACKOFF_INITIAL_INTERVAL", "10s", "rate_limits.xds.backoff", "Not set: 1s.", duration),
    same("XDS_CLIENT_BACKOFF_MAX_INTERVAL", "60s", "rate_limits.xds.backoff_max", "Not set: 30s.", duration),
    *ignored("XDS_CLIENT_BACKOFF_RANDOM_FACTOR", "0.5", "Each wait is up to half shorter, at random."),
    *ignored("XDS_CLIENT_BACKOFF_JITTER", "true", "As XDS_CLIENT_BACKOFF_RANDOM_FACTOR."),
    same("XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES", "", "rate_limits.xds.max_bytes", "Not set: 4 MiB, as there.", integer),
)

METRICS: Final = (
    Variable("USE_STATSD", "true", Verdict.REPLACED, "server.http", "/metrics", boolean, _SCRAPE, "false"),
    *(
        Variable(name, usual, Verdict.REPLACED, "server.http", "/metrics", text, _SCRAPE, needs=("USE_STATSD",))
        for name, usual in (("STATSD_HOST", "localhost"), ("STATSD_PORT", "8125"))
    ),
    Variable("USE_DOG_STATSD", "false", Verdict.REPLACED, "server.http", "/metrics", boolean, _SCRAPE),
    *ignored("USE_DOG_STATSD_MOGRIFIERS", "", "Of USE_DOG_STATSD only; nor `DOG_STATSD_MOGRIFIER_*`."),
    same("USE_PROMETHEUS", "false", "server.metrics", "HOST:PORT has /metrics too.", boolean),
    same("PROMETHEUS_ADDR", ":9090", "server.metrics", read=listening, needs=("USE_PROMETHEUS",)),
    Variable(
        "PROMETHEUS_PATH", "/metrics", Verdict.IGNORED, "", "Always so.", text, _AT_METRICS, needs=("USE_PROMETHEUS",)
    ),
    *ignored(
        "PROMETHEUS_MAPPER_YAML",
        "",
        "The names are those of upstream's own mapping, with a label for every level.",
        warning="metrics are not renamed here: use metric_relabel_configs of Prometheus",
    ),
    Variable(
        "PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS",
        "false",
        Verdict.IGNORED,
        note="Seconds, always.",
        read=boolean,
        warning="response times are in seconds here: change the queries that expect milliseconds",
    ),
    *ignored(
        "EXTRA_TAGS",
        "",
        "Labels of a whole process are for what scrapes it.",
        warning="metrics get no further labels here: write them into the scrape configuration",
    ),
    *ignored("STATS_FLUSH_INTERVAL", "10s", "Of statsd only."),
    *ignored("DISABLE_STATS", "false", "Whoever does not scrape them has none."),
)

LIMITS: Final = (
    same("NEAR_LIMIT_RATIO", "0.8", "rate_limits.near_limit_ratio", read=number),
    *ignored("EXPIRATION_JITTER_MAX_SECONDS", "300", "A key lives until its bucket is full, then it says nothing."),
    same(
        "LOCAL_CACHE_SIZE_IN_BYTES", "0", "store.denial_cache", "`0` is off. Not set: on, for it is exact.", some_bytes
    ),
    same("CACHE_KEY_PREFIX", "", "store.key_prefix", "Not set: genops. A colon at its end is ours anyway.", prefix),
    Variable(
        "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT",
        "false",
        Verdict.REPLACED,
        note="Always so: a refused request takes nothing, of any of its limits.",
        read=boolean,
        warning="a refused request takes nothing of any limit, whatever this says: remove it",
        quiet="true",
    ),
    Variable(
        "BACKEND_TYPE",
        "redis",
        Verdict.REFUSED,
        note="memcache cannot keep a bucket: set it to redis, and REDIS_URL to a Redis or Valkey",
    ),
    same("SHADOW_MODE", "false", "rate_limits.shadow_mode", read=boolean),
    same("QUOTA_MODE", "false", "rate_limits.quota_mode", read=boolean),
    same("RESPONSE_DYNAMIC_METADATA", "false", "rate_limits.dynamic_metadata", read=boolean),
    same("LIMIT_RESPONSE_HEADERS_ENABLED", "false", "rate_limits.headers", read=boolean),
    same("LIMIT_LIMIT_HEADER", "RateLimit-Limit", "rate_limits.header_names.limit"),
    same("LIMIT_REMAINING_HEADER", "RateLimit-Remaining", "rate_limits.header_names.remaining"),
    same("LIMIT_RESET_HEADER", "RateLimit-Reset", "rate_limits.header_names.reset"),
)


def _redis(start: str, place: str, socket: str) -> tuple[Variable, ...]:
    """List what both stores have; `start` is REDIS_ or REDIS_PERSECOND_."""
    return (
        same(f"{start}SOCKET_TYPE", "unix", f"{place}.url", "`unix://`. Not set: what the URL looks like."),
        same(f"{start}TYPE", "SINGLE", f"{place}.url", "`redis+sentinel://`, `redis+cluster://`", str.lower),
        same(f"{start}URL", socket, f"{place}.url"),
        same(f"{start}AUTH", "", f"{place}.password", "`user:password` too: the user goes into the URL."),
        same(f"{start}SENTINEL_AUTH", "", "store.sentinel_password", "One password for all Sentinels, without a user."),
        same(
            f"{start}TLS",
            "false",
            f"{place}.url",
            "`rediss://`, `redis+sentinel+tls://`, `redis+cluster+tls://`",
            boolean,
        ),
        *ignored(f"{start}POOL_SIZE", "10", _ONE_PIPELINE),
        *ignored(f"{start}PIPELINE_WINDOW {start}PIPELINE_LIMIT", "0", _ONE_PIPELINE),
        *ignored(f"{start}CLUSTER_PIPELINE_PARALLELISM", "1", "Slots are always asked at once."),
        *ignored(f"{start}POOL_ON_EMPTY_BEHAVIOR", "WAIT", _ONE_PIPELINE),
    )


STORE: Final = (
    *_redis("REDIS_", "store", "/var/run/nutcracker/ratelimit.sock"),
    same("REDIS_TLS_CACERT", "", "store.tls.ca_file", "Of both stores, as the next two.", needs=_REDIS_TLS),
    same("REDIS_TLS_CLIENT_CERT", "", "store.tls.cert_file", needs=_REDIS_TLS),
    same("REDIS_TLS_CLIENT_KEY", "", "store.tls.key_file", needs=_REDIS_TLS),
    Variable(
        "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION",
        "false",
        Verdict.REFUSED,
        note="whose certificate it is, is always looked at: remove it, and write a name that the certificate has into "
        "REDIS_URL, or into store.tls.server_name of a configuration file",
        read=boolean,
        needs=_REDIS_TLS,
    ),
    same("REDIS_TIMEOUT", "10s", "store.timeout", "For each answer too; at most 10s. Not set: 100ms.", duration),
    *ignored(
        "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", "false", "The service's health follows the store, and its outage terms."
    ),
    *ignored("REDIS_STARTUP_INITIAL_INTERVAL", "1s", _STARTED),
    *ignored("REDIS_STARTUP_MAX_INTERVAL", "30s", _STARTED),
    *ignored("REDIS_STARTUP_MAX_ELAPSED_TIME", "0", _STARTED),
    same("REDIS_PERSECOND", "false", "store.per_second", "The store of limits per second.", boolean),
    *_redis("REDIS_PERSECOND_", "store.per_second", "/var/run/nutcracker/ratelimitpersecond.sock"),
    Variable("REDIS_PERSECOND_TIMEOUT", "10s", Verdict.REPLACED, "store.timeout", "REDIS_TIMEOUT is for both."),
)

MEMCACHE: Final = (
    *ignored("MEMCACHE_HOST_PORT MEMCACHE_SRV", "", _ONLY_MEMCACHE),
    *ignored("MEMCACHE_SRV_REFRESH", "0", _ONLY_MEMCACHE),
    *ignored("MEMCACHE_MAX_IDLE_CONNS", "2", _ONLY_MEMCACHE),
    *ignored("MEMCACHE_TLS", "false", _ONLY_MEMCACHE),
    *ignored("MEMCACHE_TLS_CLIENT_CERT MEMCACHE_TLS_CLIENT_KEY MEMCACHE_TLS_CACERT", "", _ONLY_MEMCACHE),
    *ignored("MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION", "false", _ONLY_MEMCACHE),
)

TRACING: Final = (
    Variable(
        "TRACING_ENABLED",
        "false",
        Verdict.IGNORED,
        note="There are no traces yet.",
        read=boolean,
        warning="no traces are sent here",
    ),
    *ignored("TRACING_SERVICE_NAME", "RateLimit", _ONLY_TRACING),
    *ignored("TRACING_SERVICE_NAMESPACE TRACING_SERVICE_INSTANCE_ID", "", _ONLY_TRACING),
    *ignored("TRACING_EXPORTER_PROTOCOL", "http", _ONLY_TRACING),
    *ignored("TRACING_SAMPLING_RATE", "1", _ONLY_TRACING),
)

ENVOY_GATEWAY: Final = (
    same(
        "GRPC_SERVER_TLS_CA_CERT",
        "",
        "server.tls.client_ca_file",
        "envoyproxy/ratelimit does not read it, and admits clients without a certificate. Envoy Gateway's have one.",
        needs=_TLS,
    ),
    *ignored("OTEL_EXPORTER_OTLP_ENDPOINT", "", _ONLY_TRACING),
)
"""What Envoy Gateway sets beside the variables of envoyproxy/ratelimit's settings (as of its 1.9.1)."""

GROUPS: Final = {
    "Listening and logging": LISTENING,
    "Where limits come from": CONFIGURATION,
    "Limits over xDS": XDS,
    "Limits and answers": LIMITS,
    "The store": STORE,
    "Metrics": METRICS,
    "memcache": MEMCACHE,
    "Tracing": TRACING,
    "Of Envoy Gateway alone": ENVOY_GATEWAY,
}

VARIABLES: Final = {variable.name: variable for group in GROUPS.values() for variable in group}
