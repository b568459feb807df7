"""What a refused client is told, for each reason.

Coarser than the reason, which is for logs: which check a credential failed helps an attacker and nobody else. Nothing
that a client sent is ever repeated to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from genops_extauth.reasons import Reason


@dataclass(frozen=True, slots=True)
class Denial:
    """What a refused client is told.

    `status` is HTTP's, `code` is google.rpc.Code's, `error` the stable code of the body, `message` its sentence.
    `challenge` is the WWW-Authenticate field, which a 401 must have (RFC 9110, 15.5.2); empty where there is none.
    `retry_after` are the seconds after which it may be worth another try; 0 says nothing about it.
    """

    status: int
    code: int
    error: str
    message: str
    challenge: str = ""
    retry_after: int = 0


# RFC 6750, 3. API keys and certificates have no scheme of their own; keys are taken as bearer tokens too.
_REALM = 'Bearer realm="genops"'
_BAD_TOKEN = f'{_REALM}, error="invalid_token"'

_MALFORMED = Denial(400, 3, "invalid_request", "The request is not well formed.")
_UNAUTHENTICATED = Denial(401, 16, "unauthenticated", "A bearer token, or another credential, is required.", _REALM)
_AMBIGUOUS = Denial(401, 16, "ambiguous_credentials", "Send one credential, and send it once.", _REALM)
_INVALID_TOKEN = Denial(401, 16, "invalid_token", "The bearer token is not valid.", _BAD_TOKEN)
_INVALID_KEY = Denial(401, 16, "invalid_api_key", "The API key is not valid.", _BAD_TOKEN)
_INVALID_CERTIFICATE = Denial(401, 16, "invalid_certificate", "The client certificate is not accepted.", _REALM)
_REVOKED = Denial(401, 16, "credential_revoked", "The credential was revoked.", _BAD_TOKEN)
# Guesses are counted by the minute.
_TOO_MANY_GUESSES = Denial(
    429, 8, "too_many_guesses", "Too many unknown API keys came from here; try again later.", retry_after=60
)
_FORBIDDEN = Denial(403, 7, "forbidden", "The identity may not use this service.")
_SCOPE_MISSING = Denial(
    403, 7, "insufficient_scope", "The credential lacks a scope.", f'{_REALM}, error="insufficient_scope"'
)
_PATH = Denial(400, 3, "invalid_path", "The path can be read in more than one way; send it in its plain form.")
_NO_ROUTE = Denial(404, 5, "not_found", "There is nothing here.")
_BODY = Denial(400, 3, "invalid_body", "The body must be one whole JSON object, uncompressed, no member twice.")
_MODEL = Denial(403, 7, "model_not_allowed", "Your tier may not use this model.")
_TOKENS = Denial(403, 7, "max_tokens_exceeded", "Say how many tokens you ask for, and no more than your tier may.")
# Keys are fetched anew and stores fail over within seconds; whoever waits so long does not make it worse.
_UNAVAILABLE = Denial(503, 14, "unavailable", "The request cannot be authorized right now; try again.", retry_after=5)
_INTERNAL = Denial(500, 13, "internal_error", "The request could not be authorized.")

DENIALS: Mapping[Reason, Denial] = MappingProxyType(
    {
        Reason.REQUEST_MALFORMED: _MALFORMED,
        Reason.REQUEST_INCONSISTENT: _MALFORMED,
        Reason.CREDENTIALS_MISSING: _UNAUTHENTICATED,
        Reason.CREDENTIALS_AMBIGUOUS: _AMBIGUOUS,
        Reason.CREDENTIALS_UNSUPPORTED: _UNAUTHENTICATED,
        Reason.TOKEN_TOO_LARGE: _INVALID_TOKEN,
        Reason.TOKEN_MALFORMED: _INVALID_TOKEN,
        Reason.TOKEN_HEADER_REFUSED: _INVALID_TOKEN,
        Reason.TOKEN_ALGORITHM_REFUSED: _INVALID_TOKEN,
        Reason.TOKEN_CLAIMS_MALFORMED: _INVALID_TOKEN,
        Reason.TOKEN_ISSUER_UNKNOWN: _INVALID_TOKEN,
        Reason.TOKEN_AUDIENCE_WRONG: _INVALID_TOKEN,
        Reason.TOKEN_EXPIRED: _INVALID_TOKEN,
        Reason.TOKEN_NOT_YET_VALID: _INVALID_TOKEN,
        Reason.TOKEN_KEY_UNKNOWN: _INVALID_TOKEN,
        Reason.TOKEN_SIGNATURE_WRONG: _INVALID_TOKEN,
        Reason.TOKEN_LIFETIME_TOO_LONG: _INVALID_TOKEN,
        Reason.TOKEN_RULE_UNMET: _INVALID_TOKEN,
        Reason.API_KEY_MALFORMED: _INVALID_KEY,
        Reason.API_KEY_UNKNOWN: _INVALID_KEY,
        Reason.API_KEY_EXPIRED: _INVALID_KEY,
        Reason.API_KEY_NOT_YET_VALID: _INVALID_KEY,
        Reason.API_KEY_REVOKED: _INVALID_KEY,
        Reason.API_KEY_GUESSED: _TOO_MANY_GUESSES,
        Reason.CERTIFICATE_MALFORMED: _INVALID_CERTIFICATE,
        Reason.CERTIFICATE_EXPIRED: _INVALID_CERTIFICATE,
        Reason.CREDENTIAL_REVOKED: _REVOKED,
        Reason.ATTRIBUTE_MISSING: _FORBIDDEN,
        Reason.ATTRIBUTE_UNUSABLE: _FORBIDDEN,
        Reason.TIER_NOT_GRANTED: _FORBIDDEN,
        Reason.PATH_NOT_CANONICAL: _PATH,
        Reason.ROUTE_REFUSED: _NO_ROUTE,
        Reason.SCOPE_MISSING: _SCOPE_MISSING,
        Reason.ROLE_MISSING: _FORBIDDEN,
        Reason.TIER_NOT_ADMITTED: _FORBIDDEN,
        Reason.ATTRIBUTE_NOT_ADMITTED: _FORBIDDEN,
        Reason.BODY_MISSING: _BODY,
        Reason.BODY_TRUNCATED: _BODY,
        Reason.BODY_MALFORMED: _BODY,
        Reason.MODEL_NOT_ADMITTED: _MODEL,
        Reason.MAX_TOKENS_EXCEEDED: _TOKENS,
        Reason.KEYS_UNAVAILABLE: _UNAVAILABLE,
        Reason.STORE_UNAVAILABLE: _UNAVAILABLE,
        Reason.INTERNAL: _INTERNAL,
    }
)
