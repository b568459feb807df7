"""The checks that `gate`, its authenticators and `policy` make, in their order, each with the refusals it gives."""

from collections.abc import Mapping

from genops_extauth.reasons import Reason
from genops_extauth.routes import Route

Refusals = frozenset[Reason | tuple[Reason, str]]
"""Reasons; or one of the details of a reason that has several places."""

_RESERVED_NAME = (Reason.REQUEST_MALFORMED, "the name of a reserved header")

_CREDENTIAL: Mapping[str, Refusals] = {
    "credential: one, of a kind that the route takes": frozenset(
        {Reason.CREDENTIALS_MISSING, Reason.CREDENTIALS_AMBIGUOUS, Reason.CREDENTIALS_UNSUPPORTED}
    )
}
_OF_METHOD: Mapping[str, Mapping[str, Refusals]] = {
    "jwt": {
        "token: size and compact form": frozenset({Reason.TOKEN_TOO_LARGE, Reason.TOKEN_MALFORMED}),
        "token: header": frozenset({Reason.TOKEN_HEADER_REFUSED}),
        "token: claims can be read": frozenset({Reason.TOKEN_CLAIMS_MALFORMED}),
        "token: issuer is configured": frozenset({Reason.TOKEN_ISSUER_UNKNOWN}),
        "token: algorithm is the issuer's": frozenset({Reason.TOKEN_ALGORITHM_REFUSED}),
        "token: names a subject": frozenset({(Reason.TOKEN_CLAIMS_MALFORMED, "sub")}),
        "token: audience is ours": frozenset({Reason.TOKEN_AUDIENCE_WRONG, (Reason.TOKEN_CLAIMS_MALFORMED, "aud")}),
        "token: of the issuer's profile": frozenset(
            {(Reason.TOKEN_HEADER_REFUSED, "typ is not at+jwt")}
            | {(Reason.TOKEN_CLAIMS_MALFORMED, claim) for claim in ("jti", "client_id")}
        ),
        "token: valid now": frozenset(
            {Reason.TOKEN_EXPIRED, Reason.TOKEN_NOT_YET_VALID, Reason.TOKEN_LIFETIME_TOO_LONG}
            | {(Reason.TOKEN_CLAIMS_MALFORMED, claim) for claim in ("exp", "nbf", "iat")}
        ),
        "token: key is known": frozenset(
            {
                Reason.TOKEN_KEY_UNKNOWN,
                Reason.KEYS_UNAVAILABLE,
                (Reason.TOKEN_ALGORITHM_REFUSED, "its key is for another algorithm"),
            }
        ),
        "token: signature": frozenset({Reason.TOKEN_SIGNATURE_WRONG}),
        "token: the issuer's rules": frozenset({Reason.TOKEN_RULE_UNMET}),
    },
    "api_key": {
        "API key: form and checksum": frozenset({Reason.API_KEY_MALFORMED}),
        "API key: known": frozenset({Reason.API_KEY_GUESSED, Reason.API_KEY_UNKNOWN, Reason.STORE_UNAVAILABLE}),
        "API key: not revoked": frozenset({Reason.API_KEY_REVOKED}),
        "API key: valid now": frozenset({Reason.API_KEY_NOT_YET_VALID, Reason.API_KEY_EXPIRED}),
    },
    "certificate": {
        "certificate: can be read": frozenset({Reason.CERTIFICATE_MALFORMED}),
        "certificate: valid now": frozenset({Reason.CERTIFICATE_EXPIRED}),
    },
}
_OF_IDENTITY: Mapping[str, Refusals] = {
    "identity: attributes are usable": frozenset(
        {Reason.ATTRIBUTE_UNUSABLE, (Reason.TOKEN_CLAIMS_MALFORMED, "scopes"), (Reason.TOKEN_CLAIMS_MALFORMED, "roles")}
    ),
    "identity: tier may be granted": frozenset({Reason.TIER_NOT_GRANTED}),
    "identity: not revoked": frozenset({Reason.CREDENTIAL_REVOKED}),
}
_OF_REQUEST: Mapping[str, Refusals] = {
    "request: well formed": frozenset({Reason.REQUEST_MALFORMED, Reason.REQUEST_INCONSISTENT}),
}
_OF_ROUTE: Mapping[str, Refusals] = {
    "route: is served, by a path of one reading": frozenset({Reason.ROUTE_REFUSED, Reason.PATH_NOT_CANONICAL}),
    "identity: required attributes": frozenset({Reason.ATTRIBUTE_MISSING}),
    "route: scopes": frozenset({Reason.SCOPE_MISSING}),
    "route: roles": frozenset({Reason.ROLE_MISSING}),
    "route: tiers": frozenset({Reason.TIER_NOT_ADMITTED}),
    "route: attributes": frozenset({Reason.ATTRIBUTE_NOT_ADMITTED}),
}
_OF_BODY: Mapping[str, Refusals] = {
    "body: whole, and JSON": frozenset({Reason.BODY_MISSING, Reason.BODY_TRUNCATED, Reason.BODY_MALFORMED}),
    "body: model": frozenset({Reason.MODEL_NOT_ADMITTED}),
    "body: tokens asked for": frozenset({Reason.MAX_TOKENS_EXCEEDED}),
}
_OF_NAMES: Mapping[str, Refusals] = {"request: names of reserved headers": frozenset({_RESERVED_NAME})}
_OPEN: Mapping[str, Refusals] = {"route: open to everybody": frozenset()}


def checks(route: Route, method: str | None, *, unasked: bool) -> Mapping[str, Refusals]:
    """Return the checks that a request meets, in order, each with its refusals.

    `method` is the kind of its credential, None where it has none.
    """
    body = _OF_BODY if route.body is not None else {}
    if unasked:
        return {**_OPEN, **_OF_REQUEST, **body, **_OF_NAMES}
    identity = {**_OF_METHOD[method], **_OF_IDENTITY} if method is not None else {}
    return {**_CREDENTIAL, **identity, **_OF_REQUEST, **_OF_ROUTE, **body, **_OF_NAMES}
