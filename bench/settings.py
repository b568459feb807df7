"""The sidecar's files: its configuration for each variant, and what that points to."""

import json
from collections.abc import Mapping
from typing import Any

from bench.api_keys import DIGEST_KEY
from bench.bodies import CLIENT_HEADERS, DOMAIN, MOST_DESCRIPTORS, WIDE
from bench.credentials import AUDIENCE, ISSUER, SPIFFE_ID

MOST = "1000000/second"
"""More than a run can ask, so that one key is never over."""

ADMITTED = 5_000
"""A second, and at once, of the tier in `bench.admission`."""

Config = dict[str, Any]

_PREMIUM: Mapping[str, Config] = {
    "leases": {"limit": MOST, "lease": 1_000},
    "admission": {"limit": f"{ADMITTED}/second"},
    "admission, leased": {"limit": f"{ADMITTED}/second", "lease": 100},
}

_ROUTES: Mapping[str, int] = {"a route": 1, "200 routes": 200}

_ISSUER: Config = {
    "issuer": ISSUER,
    "audiences": [AUDIENCE],
    "algorithms": ["RS256"],
    "keys": {"public_key_file": "issuer.pem"},
    "claims": {
        "team": "team",
        "project": "project",
        "customer_id": "sub",
        "customer_tier": "tier",
        "cost_center": "cost_center",
    },
    "tiers": ["free", "premium"],
}

_WORKLOADS: Config = {"spiffe": SPIFFE_ID, "attributes": {"project": "assistant", "customer_tier": "premium"}}

_DEMANDS: Config = {
    "scopes": ["llm.invoke", "models.read"],
    "tiers": ["premium"],
    "attributes": {"team": ["search-relevance", "ml-platform"]},
}


def files(server: Mapping[str, str], store: str, public_key: bytes, variant: str) -> dict[str, bytes]:
    """Name and content of each; `variant` is that of a case."""
    return {
        "genops.yaml": _json(_config(server, store, variant)),  # JSON is YAML
        "limits/wide.yaml": _json(_wide()),
        "issuer.pem": public_key,
        "digest.key": DIGEST_KEY.encode(),
    }


def _config(server: Mapping[str, str], store: str, variant: str) -> Config:
    return {
        "server": {**server, "drain_delay": "0s"},
        # Longer than the default: the store shares its core with the load, and full speed asks what it costs, not how
        # long it waits. Latency is measured at the modest rate, where a late answer shows.
        "store": {"url": store, "timeout": "2s"},
        "identity": {"jwt": [_ISSUER], **(_more_credentials() if variant == "credentials" else {})},
        "governance": {"required": ["team", "project", "customer_id"], "defaults": {"customer_tier": "free"}},
        "rate_limits": {"domain": DOMAIN, "directory": "limits"},
        # More a second than a run can ask, so that one key is never over; and one that a single request uses up.
        "tiers": {"free": {"limit": "1/hour"}, "premium": _PREMIUM.get(variant, {"limit": MOST})},
        "routes": _routes(_ROUTES[variant]) if variant in _ROUTES else [],
    }


def _more_credentials() -> Config:
    return {"api_keys": {"digest_key_file": "digest.key"}, "certificates": {"identities": [_WORKLOADS]}}


def _routes(count: int) -> list[Config]:
    """That of `CLIENT_HEADERS`, with demands; before it others, on the same host, with templates and without."""
    path, _, _ = CLIENT_HEADERS[":path"].partition("?")
    place: Config = {"hosts": [CLIENT_HEADERS[":authority"]], "methods": [CLIENT_HEADERS[":method"]]}
    others = [f"/v1/service-{number}" + ("/items/{id}" if number % 2 else "/items") for number in range(count - 1)]
    return [{**place, "path": each, "require": _DEMANDS} for each in (*others, path)]


def _wide() -> Config:
    limit = {"unit": "second", "requests_per_unit": 1_000_000}
    limits = [
        {"key": "limit", "value": str(number), "descriptors": [{"key": "customer", "rate_limit": limit}]}
        for number in range(MOST_DESCRIPTORS)
    ]
    return {"domain": WIDE, "descriptors": limits}


def _json(data: Config) -> bytes:
    return json.dumps(data).encode()
