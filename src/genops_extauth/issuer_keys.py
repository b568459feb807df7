"""The keys section of an issuer: where its public keys are, and how they are fetched."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, model_validator

from genops_extauth.fields import Boolean, CheckError, Duration, Section, between, setting, sources
from genops_extauth.notation import duration
from genops_extauth.secure_uri import require_secure
from genops_extauth.sources import SourceError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _jwks_uri(uri: str) -> str:
    require_secure(uri)
    return uri


def _variable(name: str) -> str:
    # A key pasted here by mistake would otherwise be shown as the name of a variable that is not set.
    if not _VARIABLE.fullmatch(name):
        raise ValueError("write the name of an environment variable, for example JWT_PUBLIC_KEY")
    return name


Variable = Annotated[str, AfterValidator(_variable)]
"""The name of an environment variable."""


class Jwks(Section):
    """How a JWK Set is fetched and kept.

    The bounds catch slips of the unit: an issuer asked all the time, a stolen key believed for months.
    """

    refresh_interval: Annotated[Duration, between("10s", "24h")] = setting(
        duration, "5m", "How often keys are fetched anew; a withdrawn key works for so long."
    )
    cooldown: Annotated[Duration, between("1s", "1h")] = setting(
        duration, "30s", "The pause after a fetch for an unknown key id, or a failed one, before the next such fetch."
    )
    max_stale: Annotated[Duration, between("1m", "168h")] = setting(
        duration, "24h", "For how long keys work while their issuer cannot be reached."
    )
    fetch_timeout: Annotated[Duration, between("100ms", "1m")] = setting(
        duration, "5s", "The longest that one whole fetch may take."
    )

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        if self.max_stale < self.refresh_interval + self.fetch_timeout:
            message = (
                "keys would expire before they are renewed: write at least refresh_interval and fetch_timeout together"
            )
            raise CheckError((("max_stale",), message))
        return self


class Keys(Section):
    """Where an issuer's public keys are: exactly one place."""

    jwks_uri: Annotated[str, AfterValidator(_jwks_uri)] | None = Field(
        default=None, description="A URL of the issuer's JWK Set: https, or http to loopback."
    )
    discovery: Boolean = Field(
        default=False, description="Whether to ask the issuer itself where its JWK Set is (OpenID Connect Discovery)."
    )
    public_key_file: str | None = Field(
        default=None, description="A file of PEM public keys or certificates, relative to this file's folder."
    )
    public_key_env: Variable | None = Field(
        default=None, description="An environment variable that holds PEM public keys."
    )
    jwks: Jwks = Field(default_factory=Jwks, description="How the JWK Set is fetched and kept.")
    _pem: bytes | None = PrivateAttr(None)

    @property
    def pem(self) -> bytes | None:
        """The PEM text of the file or variable, as read at load; None where keys are fetched."""
        return self._pem

    @property
    def static(self) -> str | None:
        """The name of the field that the PEM text comes from."""
        return next((name for name in ("public_key_file", "public_key_env") if getattr(self, name) is not None), None)

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        places = (self.jwks_uri, self.discovery or None, self.public_key_file, self.public_key_env)
        if sum(place is not None for place in places) != 1:
            raise ValueError("write exactly one of jwks_uri, discovery: true, public_key_file, public_key_env")
        if "jwks" in self.model_fields_set and self.static is not None:
            raise CheckError(
                (("jwks",), "is about keys that are fetched; one from a file or the environment is not fetched")
            )
        return self

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        """Read while validating, so that a missing file is told together with everything else."""
        if self.static is None:
            return self
        try:
            if self.public_key_file is not None:
                self._pem = sources(info).file(self.public_key_file)
            elif self.public_key_env is not None:
                self._pem = sources(info).variable(self.public_key_env).encode(errors="surrogateescape")
        except SourceError as error:
            raise CheckError(((self.static,), str(error))) from None
        return self
