"""Why a request was refused: for logs and metrics. What the client is told is coarser: `refusal_table`."""

import enum


class Reason(enum.StrEnum):
    """Why a request was refused."""

    REQUEST_MALFORMED = "request_malformed"
    REQUEST_INCONSISTENT = "request_inconsistent"
    CREDENTIALS_MISSING = "credentials_missing"
    CREDENTIALS_AMBIGUOUS = "credentials_ambiguous"
    CREDENTIALS_UNSUPPORTED = "credentials_unsupported"
    TOKEN_TOO_LARGE = "token_too_large"  # noqa: S105 - the name of a reason
    TOKEN_MALFORMED = "token_malformed"  # noqa: S105
    TOKEN_HEADER_REFUSED = "token_header_refused"  # noqa: S105
    TOKEN_ALGORITHM_REFUSED = "token_algorithm_refused"  # noqa: S105
    TOKEN_CLAIMS_MALFORMED = "token_claims_malformed"  # noqa: S105
    TOKEN_ISSUER_UNKNOWN = "token_issuer_unknown"  # noqa: S105
    TOKEN_AUDIENCE_WRONG = "token_audience_wrong"  # noqa: S105
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"  # noqa: S105
    TOKEN_KEY_UNKNOWN = "token_key_unknown"  # noqa: S105
    TOKEN_SIGNATURE_WRONG = "token_signature_wrong"  # noqa: S105
    TOKEN_LIFETIME_TOO_LONG = "token_lifetime_too_long"  # noqa: S105
    TOKEN_RULE_UNMET = "token_rule_unmet"  # noqa: S105
    API_KEY_MALFORMED = "api_key_malformed"
    API_KEY_UNKNOWN = "api_key_unknown"
    API_KEY_EXPIRED = "api_key_expired"
    API_KEY_NOT_YET_VALID = "api_key_not_yet_valid"
    API_KEY_REVOKED = "api_key_revoked"
    API_KEY_GUESSED = "api_key_guessed"
    CERTIFICATE_MALFORMED = "certificate_malformed"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CREDENTIAL_REVOKED = "credential_revoked"
    ATTRIBUTE_MISSING = "attribute_missing"
    ATTRIBUTE_UNUSABLE = "attribute_unusable"
    TIER_NOT_GRANTED = "tier_not_granted"
    PATH_NOT_CANONICAL = "path_not_canonical"
    ROUTE_REFUSED = "route_refused"
    SCOPE_MISSING = "scope_missing"
    ROLE_MISSING = "role_missing"
    TIER_NOT_ADMITTED = "tier_not_admitted"
    ATTRIBUTE_NOT_ADMITTED = "attribute_not_admitted"
    BODY_MISSING = "body_missing"
    BODY_TRUNCATED = "body_truncated"
    BODY_MALFORMED = "body_malformed"
    MODEL_NOT_ADMITTED = "model_not_admitted"
    MAX_TOKENS_EXCEEDED = "max_tokens_exceeded"
    KEYS_UNAVAILABLE = "keys_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"
    INTERNAL = "internal"
