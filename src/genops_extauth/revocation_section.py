"""The section ``identity.revocation``: what is refused before its time."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from genops_extauth import revocations
from genops_extauth.fields import Boolean, Duration, Section, Visible, between, distinct, setting
from genops_extauth.notation import duration

_LONGEST = 4096
"""Characters of an id or a subject. OpenID Connect's subjects have 255 (Core 1.0, 2); ours is a slip's bound only."""


def _revocable(value: str) -> str:
    if not 1 <= len(value) <= _LONGEST or not value.isprintable():
        raise ValueError(f"must be 1 to {_LONGEST} printable characters, as they stand in the credential")
    if mistaken := revocations.mistaken(value):
        raise ValueError(mistaken)
    return value


Revocable = Annotated[str, AfterValidator(_revocable)]


class Of(Section):
    """A token's id, or a subject, of one issuer."""

    issuer: Visible | None = Field(default=None, description="Whose; by default of whichever issuer.")
    value: Revocable = Field(description="The id or the subject, as it stands in the token.")


def _short(written: object) -> object:
    return {"value": written} if isinstance(written, str) else written


_TEXT = {"type": "string", "minLength": 1, "maxLength": _LONGEST}
_OF = {
    "type": "object",
    "properties": {"issuer": {"type": "string"}, "value": _TEXT},
    "required": ["value"],
    "additionalProperties": False,
}

Named = Annotated[Of, BeforeValidator(_short), WithJsonSchema({"anyOf": [_TEXT, _OF]})]
"""The value alone, or with its issuer."""


class Revocation(Section):
    """What is refused before its time."""

    store: Boolean = Field(
        default=True, description="Whether the store's list counts too: `genops-extauth revocations`, revoked API keys."
    )
    max_wait: Annotated[Duration, between("0s", "24h")] = setting(
        duration, "10s", "How long, at the start, to wait for the store's list before serving without it."
    )
    token_ids: Annotated[tuple[Named, ...], AfterValidator(distinct)] = Field(
        default=(), description="Tokens, by their jti."
    )
    subjects: Annotated[tuple[Named, ...], AfterValidator(distinct)] = Field(
        default=(), description="Subjects: every credential that names them, whenever it was issued."
    )
    api_keys: Annotated[tuple[Revocable, ...], AfterValidator(distinct)] = Field(
        default=(), description="API keys, by their id."
    )

    def entries(self) -> Iterator[revocations.Entry]:
        """What is listed here. It stands for as long as it is written."""
        handles = (
            *(revocations.handle("token_id", each.value, each.issuer or "") for each in self.token_ids),
            *(revocations.handle("subject", each.value, each.issuer or "") for each in self.subjects),
            *(revocations.handle("api_key", each) for each in self.api_keys),
        )
        return (revocations.Entry(each, revocations.FOREVER) for each in handles)
