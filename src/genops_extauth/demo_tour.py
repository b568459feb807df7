"""The tour: which requests are sent, with which tokens, and which answers are the right ones.

`STOPS` and `TOKENS` are the whole story, as tables. `visit` sends the requests of one stop for real, and `Stop.fault`
holds the answers against what the table says. Nothing here starts or prints anything.
"""

import http
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from genops_extauth.reserved_headers import RESERVED, RESERVED_PREFIX

ISSUER = "https://issuer.demo.example"
AUDIENCE = "genops-demo"
ALGORITHM = "ES256"

_LIFETIME = 3600  # seconds: long enough to play with, and no longer
_TIMEOUT = aiohttp.ClientTimeout(total=10)  # seconds for one answer; it takes milliseconds

Claims = Mapping[str, str]


def _customer(name: str, tier: str) -> Claims:
    return MappingProxyType(
        {"sub": name, "tier": tier, "team": "search", "project": "assistant", "cost_center": "cc-4711"}
    )


_FREE = _customer("initech", "free")
_STANDARD = _customer("globex", "standard")
_PREMIUM = _customer("acme", "premium")


@dataclass(frozen=True, slots=True)
class Token:
    """What one token says, and what is wrong with it. `age` is in seconds; `forged` ones are of somebody else's key."""

    claims: Claims
    audience: str = AUDIENCE
    age: int = 0
    forged: bool = False


TOKENS: Mapping[str, Token] = MappingProxyType(
    {
        "free": Token(_FREE),
        "standard": Token(_STANDARD),
        "premium": Token(_PREMIUM),
        # A customer of its own, so that the burst leaves the first one something to play with.
        "busy": Token(_customer("hooli", "free")),
        "expired": Token(_PREMIUM, age=2 * _LIFETIME),
        "wrong-audience": Token(_PREMIUM, audience="another-service"),
        "wrong-key": Token(_PREMIUM, forged=True),
    }
)
"""The tokens, by the name of the file that holds each."""


def mint(token: Token, key: ec.EllipticCurvePrivateKey, now: int) -> str:
    """Sign a token; `now` is in seconds since the epoch."""
    issued = now - token.age
    said = {"iss": ISSUER, "aud": token.audience, "iat": issued, "exp": issued + _LIFETIME, **token.claims}
    signer = ec.generate_private_key(key.curve) if token.forged else key
    return jwt.encode(said, signer, ALGORITHM)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `seen` are the governance headers as the service received them; None: it was not reached.

    Without an answer `status` is 0, and `body` says why.
    """

    status: int
    headers: Mapping[str, str]
    body: str
    seen: Sequence[tuple[str, str]] | None

    def __str__(self) -> str:
        """``401 Unauthorized``."""
        return f"{self.status} {http.HTTPStatus(self.status).phrase}" if self.status else f"no answer: {self.body}"


@dataclass(frozen=True, slots=True)
class Stop:
    """One thing that is shown: `says` what.

    The request is sent `len(statuses)` times, and those are the right answers. `headers` are patterns that the last
    answer's headers match. `seen` are the governance headers that reach the service, no more and no less.
    """

    says: str
    token: str | None
    statuses: tuple[int, ...] = (200,)
    path: str = "/v1/chat"
    forged: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    seen: Mapping[str, str] | None = None

    def curl(self, folder: str, origin: str) -> str:
        """Spell it for the shell. The token stays in its file: a command's arguments are everybody's to read."""
        if len(self.statuses) == 1:
            words = ["curl", "-i"]
            target = origin + self.path
        else:
            words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code} "]
            target = f"{origin}{self.path}?[1-{len(self.statuses)}]"  # curl's own loop
        if self.token:
            words += ["-H", f"@{folder}/{self.token}"]
        for name, value in self.forged:
            words += ["-H", f"{name}: {value}"]
        return shlex.join([*words, target])

    def fault(self, answers: Sequence[Answer]) -> str:
        """What is not right about the answers, or nothing."""
        came = tuple(answer.status for answer in answers)
        if came != self.statuses:
            return f"expected {_listed(self.statuses)}, and got {_listed(came)}"
        last = answers[-1]
        for name, pattern in self.headers.items():
            if not re.fullmatch(pattern, last.headers.get(name, "")):
                return f"expected {name}: {pattern}, and got {last.headers.get(name)!r}"
        right = None if self.seen is None else sorted(self.seen.items())
        if (None if last.seen is None else sorted(last.seen)) != right:
            return f"expected the service to see {right}, and it saw {last.seen}"
        return ""


def _listed(statuses: Sequence[int]) -> str:
    return " ".join(map(str, statuses))


def _told(claims: Claims) -> Mapping[str, str]:
    """The governance headers that the service is to see of a customer."""
    return {
        "x-genops-team": claims["team"],
        "x-genops-project": claims["project"],
        "x-genops-customer-id": claims["sub"],
        "x-genops-customer-tier": claims["tier"],
        "x-genops-cost-center": claims["cost_center"],
    }


_CHALLENGE = MappingProxyType({"www-authenticate": 'Bearer realm="genops".*'})
_REFUSED = MappingProxyType({"www-authenticate": 'Bearer realm="genops", error="invalid_token"'})
_EVERY_SPELLING = (("x-genops-team", "root"), ("x_genops_team", "root"), ("X.GenOps.Team", "root"))
_BURST = 5
FREE_LIMIT = f"{{limit: 100/hour, burst: {_BURST}}}"
"""The free tier's limit, as the configuration spells it."""

STOPS: tuple[Stop, ...] = (
    Stop(
        "A free customer passes, and the service is told who it is and who pays.",
        "free",
        headers={"x-ratelimit-limit": "100"},
        seen=_told(_FREE),
    ),
    Stop(
        "So does a standard customer, with ten times the limit.",
        "standard",
        headers={"x-ratelimit-limit": "1000"},
        seen=_told(_STANDARD),
    ),
    Stop(
        "And a premium customer, with a hundred times the limit.",
        "premium",
        headers={"x-ratelimit-limit": "10000"},
        seen=_told(_PREMIUM),
    ),
    Stop("No token, no service.", None, (401,), headers=_CHALLENGE),
    Stop("A token that has expired is refused.", "expired", (401,), headers=_REFUSED),
    Stop(
        "So is a token with the wrong audience: it was issued for another service.",
        "wrong-audience",
        (401,),
        headers=_REFUSED,
    ),
    Stop(
        "So is a token that somebody else signed; what was wrong is for the log alone.",
        "wrong-key",
        (401,),
        headers=_REFUSED,
    ),
    Stop(
        "Forged governance headers never arrive, however they are spelled.",
        "standard",
        forged=_EVERY_SPELLING,
        seen=_told(_STANDARD),
    ),
    Stop(
        f"A free customer's burst: {_BURST} requests pass, the rest have to wait.",
        "busy",
        (200,) * _BURST + (429,) * 3,
        headers={"x-ratelimit-limit": "100", "x-ratelimit-remaining": "0", "retry-after": r"[1-9]\d*"},
    ),
    Stop(
        "The same burst is nothing for a premium customer.",
        "premium",
        (200,) * (_BURST + 3),
        headers={"x-ratelimit-limit": "10000"},
        seen=_told(_PREMIUM),
    ),
    Stop(
        "An open route needs no token: the service hears of nobody, and the address is what is limited.",
        None,
        path="/healthz",
        headers={"x-ratelimit-limit": "60"},
        seen={},
    ),
)


async def visit(stop: Stop, origin: str, tokens: Mapping[str, str]) -> list[Answer]:
    """Send the stop's requests to `origin`, one after the other. `tokens` are the signed ones, by name."""
    headers = [*stop.forged, *([("authorization", f"Bearer {tokens[stop.token]}")] if stop.token else [])]
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as client:
        return [await _answer(client, origin + stop.path, headers) for _ in stop.statuses]


async def _answer(client: aiohttp.ClientSession, url: str, headers: Sequence[tuple[str, str]]) -> Answer:
    try:
        async with client.get(url, headers=headers) as response:
            body = await response.text(errors="replace")
            return Answer(response.status, response.headers, body.strip(), _seen(body) if response.ok else None)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answer(0, {}, str(error) or type(error).__name__, None)


def _seen(body: str) -> list[tuple[str, str]]:
    """What in the service's echo could pass for governance, by any spelling that a framework may fold."""
    return [(name.lower(), value) for name, value in json.loads(body)["headers"] if _governs(name)]


def _governs(name: str) -> bool:
    folded = name.lower().replace("_", "-").replace(".", "-")
    return folded.startswith(RESERVED_PREFIX) or folded in RESERVED
