"""The identity section: every way to say who one is, and what is refused before its time."""

from typing import Self

from pydantic import Field, model_validator

from genops_extauth.api_key_section import ApiKeys
from genops_extauth.certificate_section import Certificates
from genops_extauth.fields import Boolean, CheckError, Section
from genops_extauth.issuers import Issuer, SecretIssuer, conflicts
from genops_extauth.model import Method
from genops_extauth.revocation_section import Revocation


class Identity(Section):
    """Who may ask."""

    jwt: tuple[Issuer, ...] = Field(default=(), description="The issuers whose JSON Web Tokens are believed.")
    hmac: tuple[SecretIssuer, ...] = Field(
        default=(), description="Issuers that sign with a secret in place of a key pair, as few as can be."
    )
    api_keys: ApiKeys | None = Field(default=None, description="API keys; by default none are taken.")
    certificates: Certificates | None = Field(
        default=None, description="Certificates of callers; by default none names anybody."
    )
    revocation: Revocation = Field(default_factory=Revocation, description="What is refused before its time.")
    forward_authorization: Boolean = Field(
        default=True, description="Whether services get the Authorization header; one that held an API key they do not."
    )

    @property
    def issuers(self) -> tuple[Issuer | SecretIssuer, ...]:
        """Every issuer of tokens."""
        return (*self.jwt, *self.hmac)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The kinds of credentials that somebody can have, in the order in which they are asked for."""
        configured: dict[Method, object] = {
            "jwt": self.issuers,
            "api_key": self.api_keys,
            "certificate": self.certificates,
        }
        return tuple(method for method, section in configured.items() if section)

    @model_validator(mode="after")
    def _issuers_apart(self) -> Self:
        complaints = tuple(conflicts(self.jwt, self.hmac))
        if complaints:
            raise CheckError(*complaints)
        return self
