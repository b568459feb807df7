"""The demo's Envoy: its configuration, and where it listens.

The settings are those of docs/gateways/envoy.yaml, with two left at Envoy's defaults on purpose: what a client claims
in ``x-genops-*`` headers is not stripped before ext_authz, and names with underscores are not dropped. So the tour
shows that the sidecar needs no help against forged headers. In production take both: two walls are better than one.
And it waits for 2 s rather than 0.25 s: a machine that is busy with a build shows 200, not the 503 of an outage.

Everything but the listener is a unix socket in the demo's own folder: no other user of the machine may ask the sidecar,
or tell Envoy's admin interface to stop.
"""

import asyncio
import json
from pathlib import Path
from string import Template

import aiohttp

_PAUSE = 0.02  # seconds between two looks at a starting Envoy

_CONFIGURATION = Template("""\
admin:
  address: {pipe: {path: "$folder/admin.sock", mode: 0600}}
static_resources:
  listeners:
    - name: ingress
      # Port 0: on an occupied port Envoy would share it without a word.
      address: {socket_address: {address: 127.0.0.1, port_value: 0}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: ingress
                use_remote_address: true
                normalize_path: true
                merge_slashes: true
                path_with_escaped_slashes_action: REJECT_REQUEST
                http_filters:
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      transport_api_version: V3
                      grpc_service: {envoy_grpc: {cluster_name: genops-extauth}, timeout: 2s}
                      failure_mode_allow: false
                      status_on_error: {code: ServiceUnavailable}
                      validate_mutations: true
                      encode_raw_headers: true
                      max_denied_response_body_bytes: 4096
                  - name: envoy.filters.http.ratelimit
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
                      domain: genops
                      request_type: both
                      timeout: 2s
                      # No answer is no pass: a customer who can slow the store down must not gain from it.
                      failure_mode_deny: true
                      status_on_error: {code: ServiceUnavailable}
                      rate_limited_as_resource_exhausted: true
                      rate_limit_service:
                        transport_api_version: V3
                        grpc_service: {envoy_grpc: {cluster_name: genops-extauth}}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: ai
                      domains: ["*"]
                      # Dynamic metadata of ext_authz, which no client can write. An action that finds nothing drops its
                      # whole descriptor, so a request without a customer is left to the second one.
                      rate_limits:
                        - actions:
                            - metadata:
                                descriptor_key: customer_tier
                                default_value: unknown
                                metadata_key: {key: envoy.filters.http.ext_authz, path: [{key: customer_tier}]}
                            - metadata:
                                descriptor_key: customer_id
                                metadata_key: {key: envoy.filters.http.ext_authz, path: [{key: customer_id}]}
                        # With an identity it has a second entry, and as descriptors match whole or not at all, it then
                        # meets no limit.
                        - actions:
                            - remote_address: {}
                            - metadata:
                                descriptor_key: customer_id
                                metadata_key: {key: envoy.filters.http.ext_authz, path: [{key: customer_id}]}
                                skip_if_absent: true
                      routes:
                        # A real upstream: a direct_response would skip the rate limit filter.
                        - match: {prefix: /}
                          route: {cluster: service}
  clusters:
    - name: genops-extauth
      connect_timeout: 2s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment:
        cluster_name: genops-extauth
        endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: "$folder/grpc.sock"}}}}]}]
    - name: service
      connect_timeout: 2s
      load_assignment:
        cluster_name: service
        endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: "$folder/service.sock"}}}}]}]
""")  # noqa: E501 - a type URL cannot be broken


def configuration(folder: Path) -> str:
    """Envoy's configuration file for the sockets in `folder`."""
    # JSON's escapes are those of YAML's double quotes.
    return _CONFIGURATION.substitute(folder=json.dumps(str(folder))[1:-1])


def command(binary: Path, folder: Path) -> tuple[str, ...]:
    """How to start it, with its configuration in ``envoy.yaml``.

    One worker suffices. A second Envoy on the machine would die on the base id of hot restarts.
    """
    return (
        *(str(binary), "--config-path", str(folder / "envoy.yaml")),
        *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"),
    )


async def origin(folder: Path) -> str:
    """Wait until Envoy serves, and return where: ``http://127.0.0.1:PORT``. It waits for ever: bound it."""
    connector = aiohttp.UnixConnector(str(folder / "admin.sock"))
    async with aiohttp.ClientSession("http://admin", connector=connector) as admin:
        while not await _ready(admin):  # noqa: ASYNC110 - Envoy tells nobody when it is ready: it must be asked
            await asyncio.sleep(_PAUSE)
        async with admin.get("/listeners", params={"format": "json"}) as response:
            (listener,) = (await response.json(content_type=None))["listener_statuses"]
    address = listener["local_address"]["socket_address"]
    return f"http://{address['address']}:{address['port_value']}"


async def _ready(admin: aiohttp.ClientSession) -> bool:
    try:
        async with admin.get("/ready") as response:
            return response.ok
    except aiohttp.ClientError:
        return False
