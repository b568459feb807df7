"""The cases of vectors/authz.yaml, asked of a running sidecar: its profiles, its requests, its worlds.

The language is described in the file itself, under `dsl`. What is left out, and why, stands in `test_e2e_authz`.
"""

import asyncio
import contextlib
import copy
import json
import re
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from envoy_data_plane.envoy.config.core.v3 import HeaderMap, HeaderValue
from envoy_data_plane.envoy.service.auth.v3 import (
    AttributeContext,
    AttributeContextHttpRequest,
    AttributeContextRequest,
    CheckRequest,
)

from api_keys import issued
from faulty_issuer import Fault, FaultyIssuer, answers, html, streams
from minting import base64url
from sidecar import settings
from token_recipes import AUTHZ, mint, pair, published

CASES: list[dict[str, Any]] = AUTHZ["cases"]
DIGEST_KEY = secrets.token_hex(32).encode()
API_KEYS = {name: issued(DIGEST_KEY, fixture) for name, fixture in AUTHZ["fixtures"]["api_keys"].items()}

_CLAIMS = {"customer_id": "customer_id", "customer_tier": "customer_tier"}


def profile(name: str, jwks: str, second: str) -> dict[str, Any]:
    """A profile as our configuration, with the addresses of both issuers' keys."""
    configured = settings(
        identity={"jwt": [_issuer("https://idp.test/", jwks)]},
        governance={"required": [], "defaults": {"customer_tier": "bronze"}},
        tiers={tier: {"limit": "100000/hour"} for tier in ("bronze", "silver", "gold")},
        routes=[],
    )
    configured["identity"]["api_keys"] = {
        "digest_key_file": "digest-key",
        "directory": "api-keys",
        "store": False,
    }
    changes = _PROFILES.get(name)
    if changes is not None:
        changes(configured, second)
    return configured


def _issuer(name: str, jwks: str) -> dict[str, Any]:
    return {
        "issuer": name,
        "audiences": ["genops-gateway"],
        "algorithms": ["RS256", "ES256", "EdDSA"],
        "keys": {"jwks_uri": jwks, "jwks": {"refresh_interval": "10s", "cooldown": "30s"}},
        "claims": copy.copy(_CLAIMS),
    }


def _two_issuers(configured: dict[str, Any], second: str) -> None:
    first = configured["identity"]["jwt"][0]
    other = _issuer("https://idp-b.test/", second)
    first |= {"customer_prefix": "a:", "tiers": ["bronze", "silver", "gold"]}
    other |= {"customer_prefix": "b:", "tiers": ["bronze", "silver", "gold"]}
    configured["identity"]["jwt"].append(other)


def _setting(*path: str | int, value: Any) -> Callable[[dict[str, Any], str], None]:
    def change(configured: dict[str, Any], _: str) -> None:
        place: Any = configured
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


_PROFILES: Mapping[str, Callable[[dict[str, Any], str], None]] = {
    "two_issuers": _two_issuers,
    "anonymous": _setting("routes", value=[{"auth": ["jwt", "api_key", "anonymous"]}]),
    "rs_all": _setting("identity", "jwt", 0, "algorithms", value=["RS256", "RS384", "RS512"]),
    "scope_required": _setting("routes", value=[{"require": {"scopes": ["llm.invoke"]}}]),
    "revocation": _setting("identity", "revocation", value={"token_ids": ["revoked-1"]}),
    "team_required": _setting("governance", "required", value=["team"]),
    "tier_enum": _setting("identity", "jwt", 0, "tiers", value=["bronze", "silver", "gold"]),
    "strip_authz": _setting("identity", "forward_authorization", value=False),
    "multi_host": _setting("routes", value=[{"hosts": ["api.test"]}, {"auth": "refuse"}]),
    "health_exempt": _setting("routes", value=[{"methods": ["GET"], "path": "/healthz", "auth": "none"}]),
    "model_acl": _setting("routes", value=[{"methods": ["POST"], "body": {"models": {"*": ["allowed"]}}}]),
}


@dataclass
class Issuers:
    """Both issuers' key servers, in an event loop of their own: the sidecar is another process, and so not ours."""

    first: FaultyIssuer
    second: FaultyIssuer
    _loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Do something in their loop, and wait for it."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10)

    def change(self, world: str) -> None:
        """Bring about what a case's ``world.jwks`` says."""
        kind, _, argument = world.partition(":")
        if kind == "add":
            self.first.jwks.append(pair(argument).jwk())
        elif kind == "down":
            self.run(self.first.down())
        else:
            faults: Mapping[str, Callable[[], Fault]] = {
                "html": html,
                "not_object": lambda: answers(b"[]"),
                "huge": lambda: streams(50 * 2**20),
                "keys": lambda: answers(json.dumps({"keys": [{"kty": "RSA"}] * int(argument)}).encode()),
            }
            self.first.fault = faults[kind]()


@contextlib.contextmanager
def issuers() -> Iterator[Issuers]:
    """Serve the keys of the fixtures."""
    loop = asyncio.new_event_loop()
    both = Issuers(FaultyIssuer(published()), FaultyIssuer([pair("other_issuer_rsa").jwk(kid="rsa1")]), loop)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        both.run(both.first.up())
        both.run(both.second.up())
        yield both
    finally:
        both.run(both.first.down())
        both.run(both.second.down())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def lay_out(folder: Path) -> None:
    """Write the files that `profile` names: the digest key, and the records of API keys."""
    (folder / "digest-key").write_bytes(DIGEST_KEY)
    (folder / "digest-key").chmod(0o600)
    (folder / "api-keys").mkdir()
    for name, content in (key.file for key in API_KEYS.values()):
        (folder / "api-keys" / name).write_bytes(content)


@dataclass(frozen=True)
class Asked:
    """A case's request, of a gateway and as it is over HTTP, and every credential in it: none may be seen again."""

    headers: list[tuple[str, bytes]]
    http: AttributeContextHttpRequest
    message: CheckRequest
    credentials: list[bytes] = field(default_factory=list)


def request(case: Mapping[str, Any], now: int) -> Asked:
    """Write a case's request as the gateway would."""
    said = {**AUTHZ["defaults"]["request"], **case.get("request", {})}
    credentials: list[bytes] = []
    fields = {**AUTHZ["defaults"]["request"]["headers"], **case.get("request", {}).get("headers", {})}
    authorization = said.get("authorization", "Bearer {token}" if "token" in case else None)
    if authorization is not None:
        fields["authorization"] = authorization
    headers = [(name, _filled(str(value), case, now, credentials)) for name, value in fields.items()]
    path = _filled(said["path"], case, now, credentials)
    sent = dict(headers)
    if said["pseudo_headers_in_map"]:
        sent = {":path": path, ":method": said["method"].encode(), ":authority": said["host"].encode(), **sent}
    http = AttributeContextHttpRequest(
        method=said["method"],
        path=path.decode(),
        host=said["host"],
        scheme=said["scheme"],
        protocol=said["protocol"],
        body=said.get("body", ""),
    )
    if said.get("use_header_map"):
        http.header_map = HeaderMap(headers=[HeaderValue(key=name, raw_value=value) for name, value in sent.items()])
    else:
        http.headers = {name: value.decode("utf-8", "surrogateescape") for name, value in sent.items()}
    message = CheckRequest(attributes=AttributeContext(request=AttributeContextRequest(http=http)))
    if said.get("raw") == "request_no_http":
        message = CheckRequest(attributes=AttributeContext())
    return Asked(headers, http, message, credentials)


_BOMB = b".".join([base64url(b'{"alg":"dir","enc":"A256GCM","zip":"DEF"}'), b"", b"aaaa", b"A" * 4000, b"cccc"])
_FILTERS: Mapping[str, Callable[[bytes], bytes]] = {
    "upper": bytes.upper,
    "sha256hex": lambda key: sha256(key).hexdigest().encode(),
    "replace_last:!": lambda key: key[:-1] + b"!",
}


def _filled(text: str, case: Mapping[str, Any], now: int, credentials: list[bytes]) -> bytes:
    """Fill in what stands in braces, and values that begin with ``@``."""

    def held(found: re.Match[str]) -> str:
        kind, _, argument = found[1].partition(":")
        if kind == "token":
            recipe = AUTHZ["defaults"]["token_variants"][argument] if argument else case["token"]
            credential = mint(recipe, now)
        else:
            name, _, change = argument.partition("|")
            credential = API_KEYS[name].key
            credential = _FILTERS[change](credential) if change else credential
        credentials.append(credential)
        return credential.decode("latin-1")

    text = re.sub(r"@repeat:(.):(\d+)", lambda found: found[1] * int(found[2]), text)
    text = text.replace("@jwe_zip_bomb", _BOMB.decode())
    return re.sub(r"\{((?:token|apikey)(?::[^}]*)?)\}", held, text).encode("utf-8")
