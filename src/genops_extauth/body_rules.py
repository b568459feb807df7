"""What the AI request in a body may ask for: the model, and how many tokens, by the caller's tier.

The upstream reads the same bytes again, with a parser of its own. So a body passes only where all parsers must agree:
whole, UTF-8, not compressed, one JSON object, no member twice nor in two spellings. Everything else is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from genops_extauth.model import Denied, Request
from genops_extauth.reasons import Reason
from genops_extauth.strict_json import MalformedError, parse_object

OTHERS = "*"
"""Stands for every tier that has no entry of its own."""

TokenField = Literal["max_tokens", "max_completion_tokens", "max_output_tokens"]
TOKEN_FIELDS: tuple[TokenField, ...] = get_args(TokenField)
"""How much may be generated: Anthropic's and OpenAI's older name, OpenAI's newer one, and that of its Responses."""

_COPIES = ("n", "best_of")  # how many times (OpenAI's completions)
_RULED = frozenset({"model", *TOKEN_FIELDS, *_COPIES})

# Objects and values are what costs time: so many hold the event loop up for 3 ms. Conversations have hundreds.
_MOST_ITEMS = 32_768

# RFC 8259, 11, and the suffix of RFC 6839, 3.1. Another charset is another text to an upstream that obeys it.
_JSON = re.compile(rb'(?i)application/(?:[!#$&^_.+0-9a-z-]+\+)?json[ \t]*(?:;[ \t]*charset="?utf-8"?[ \t]*)?')
_LENGTH = re.compile(rb"[0-9]{1,15}")
_MODEL = re.compile(r"[!-~]{1,256}")


class Models(NamedTuple):
    """Models that are admitted: by `names`, or by what their names begin with."""

    names: frozenset[str]
    prefixes: tuple[str, ...]

    def admit(self, model: str) -> bool:
        """Whether a model is one of them."""
        return model in self.names or model.startswith(self.prefixes)


def models(patterns: tuple[str, ...]) -> Models:
    """Read names, and beginnings with a ``*`` after them."""
    prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    return Models(frozenset(pattern for pattern in patterns if not pattern.endswith("*")), prefixes)


@dataclass(frozen=True, slots=True)
class BodyRules:
    """What bodies on a route may ask for, by tier. `OTHERS` is the entry of tiers that have none.

    `models`: a tier without an entry may use none; without any entry all may use all. `max_tokens` caps what a request
    may have generated; a tier without an entry has no cap. `token_fields` are those that the service obeys: one of them
    must be there, or leaving it out would be the way around the cap.
    """

    models: Mapping[str, Models]
    max_tokens: Mapping[str, int]
    token_fields: tuple[TokenField, ...] = TOKEN_FIELDS

    def refusal(self, request: Request, tier: str) -> Denied | None:
        """Check the body of a request. A detail names a member, never what the client wrote into it."""
        body = _read(request)
        if isinstance(body, Denied):
            return body
        for name in body:
            # Go's encoding/json takes "MODEL" for "model", the last one winning: two spellings are a member twice.
            if name not in _RULED and name.casefold() in _RULED:
                return Denied(Reason.BODY_MALFORMED, "a member in another spelling")
        refusal = self._model_refusal(body, tier)
        return self._tokens_refusal(body, tier) if refusal is None else refusal

    def _model_refusal(self, body: Mapping[str, object], tier: str) -> Denied | None:
        if not self.models:
            return None
        model = body.get("model")
        if not isinstance(model, str) or not _MODEL.fullmatch(model):
            return Denied(Reason.BODY_MALFORMED, "model")
        admitted = self.models.get(tier, self.models.get(OTHERS))
        return None if admitted is not None and admitted.admit(model) else Denied(Reason.MODEL_NOT_ADMITTED)

    def _tokens_refusal(self, body: Mapping[str, object], tier: str) -> Denied | None:
        cap = self.max_tokens.get(tier, self.max_tokens.get(OTHERS))
        if cap is None:
            return None
        tokens, copies = _numbers(body, TOKEN_FIELDS), _numbers(body, _COPIES)
        if tokens is None or copies is None:
            return Denied(Reason.BODY_MALFORMED, "a number of tokens")
        if tokens.keys().isdisjoint(self.token_fields):
            return Denied(Reason.MAX_TOKENS_EXCEEDED, "without a number of tokens")
        asked = max(tokens.values()) * max(copies.values(), default=1)
        return None if asked <= cap else Denied(Reason.MAX_TOKENS_EXCEEDED)


def _numbers(body: Mapping[str, object], names: tuple[str, ...]) -> dict[str, int] | None:
    """The members that are there and not null, which says as much as nothing; None where one is no number of things."""
    found = {}
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        # 1e3 and 1000.0 are floats: what is left of them is up to whoever reads them. True is an int to Python.
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return None
        found[name] = value
    return found


def _read(request: Request) -> dict[str, object] | Denied:
    if not request.body:
        return Denied(Reason.BODY_MISSING)
    refusal = _framing_refusal(request.headers, len(request.body))
    if refusal is not None:
        return refusal
    try:
        return parse_object(request.body, _MOST_ITEMS)
    except MalformedError as error:
        return Denied(Reason.BODY_MALFORMED, str(error))


def _framing_refusal(headers: Mapping[str, bytes], size: int) -> Denied | None:
    """Check what the headers say of a body of `size` bytes.

    A client can send ``x-envoy-auth-partial-body`` itself: whatever it says, it makes us stricter only.
    """
    length = headers.get("content-length")
    if length is not None and not _LENGTH.fullmatch(length):
        return Denied(Reason.BODY_MALFORMED, "content-length")
    if headers.get("x-envoy-auth-partial-body", b"false") != b"false" or (length is not None and int(length) > size):
        return Denied(Reason.BODY_TRUNCATED)
    if length is not None and int(length) != size:
        return Denied(Reason.BODY_MALFORMED, "content-length")
    if not _JSON.fullmatch(headers.get("content-type", b"")):
        return Denied(Reason.BODY_MALFORMED, "content-type")
    if headers.get("content-encoding", b"identity").lower() != b"identity":
        return Denied(Reason.BODY_MALFORMED, "content-encoding")
    return None
