"""The ``identity.api_keys`` section: where keys come in, where their records are, and the key of their digests."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, PrivateAttr, SecretStr, ValidationInfo, model_validator

from genops_extauth import key_files
from genops_extauth.apikeys import MIN_DIGEST_KEY_BYTES
from genops_extauth.fields import (
    Boolean,
    CheckError,
    Duration,
    FileName,
    HeaderName,
    Name,
    Section,
    between,
    distinct,
    setting,
    sources,
)
from genops_extauth.issuer_keys import Variable
from genops_extauth.key_lifecycle import Record
from genops_extauth.key_places import Places
from genops_extauth.notation import duration
from genops_extauth.reserved_headers import RESERVED_PREFIX
from genops_extauth.sources import SourceError

HOW_TO_MAKE_ONE = "make one with: head -c 48 /dev/urandom | base64 > digest.key"

_ELSEWHERE = {
    "authorization": "bearer: true takes keys from there",
    "cookie": "browsers send it by themselves, whoever asks them to: name another header",
    "host": "it says whom a client asks: name another header",
}


def _header(name: str) -> str:
    name = name.lower()
    if name in _ELSEWHERE:
        raise ValueError(_ELSEWHERE[name])
    if name.startswith(RESERVED_PREFIX):
        raise ValueError(f"{RESERVED_PREFIX}* are ours, and are removed from requests: name another header")
    return name


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("an empty list lets no key in that names a tier: leave it out for all tiers")
    return distinct(names)


class ApiKeys(Section):
    """API keys, made with ``genops-extauth keys``."""

    header: Annotated[HeaderName, AfterValidator(_header)] = Field(
        default="x-api-key", description="The header that holds a key; it is removed before the upstream."
    )
    bearer: Boolean = Field(
        default=True, description="Whether a key may be the bearer token, as clients of OpenAI's API send it."
    )
    query: Name | None = Field(
        default=None, description="The parameter of the query that may hold a key; by default none: queries are logged."
    )
    digest_key_file: FileName | None = Field(
        default=None,
        description="A file with the key of the digests, 32 bytes or more, relative to this file's folder.",
    )
    digest_key_env: Variable | None = Field(
        default=None, description="An environment variable that holds the key of the digests."
    )
    store: Boolean = Field(default=True, description="Whether records of keys are kept in the store.")
    directory: FileName | None = Field(
        default=None, description="A folder of records, such as a mounted Secret; those in the store come after them."
    )
    tiers: Annotated[tuple[Name, ...], AfterValidator(_some)] | None = Field(
        default=None, description="The tiers that keys may grant; by default all."
    )
    max_stale: Annotated[Duration, between("0s", "24h")] = setting(
        duration, "1h", "How long known keys go on while the store is away; at least 30 s."
    )
    _digest_key: SecretStr | None = PrivateAttr(None)
    _records: tuple[Record, ...] = PrivateAttr(())

    @property
    def digest_key(self) -> bytes:
        """The key of the digests."""
        return b"" if self._digest_key is None else self._digest_key.get_secret_value().encode("latin-1")

    @property
    def records(self) -> tuple[Record, ...]:
        """The records in `directory`, as read at load."""
        return self._records

    @property
    def places(self) -> Places:
        """Where keys come in."""
        return Places(self.header, self.bearer, self.query or "")

    @model_validator(mode="after")
    def _one_key(self, info: ValidationInfo) -> Self:
        names = [name for name in ("digest_key_file", "digest_key_env") if getattr(self, name) is not None]
        if len(names) != 1:
            raise ValueError(f"write one of digest_key_file, digest_key_env; {HOW_TO_MAKE_ONE}")
        try:
            key = self._read(info)
        except SourceError as error:
            raise CheckError(((names[0],), f"{error}; {HOW_TO_MAKE_ONE}")) from None
        if len(key) < MIN_DIGEST_KEY_BYTES:
            needs = f"holds {len(key)} bytes, and {MIN_DIGEST_KEY_BYTES} are the least"
            raise CheckError(((names[0],), f"{needs}; {HOW_TO_MAKE_ONE}"))
        self._digest_key = SecretStr(key.decode("latin-1"))
        return self

    def _read(self, info: ValidationInfo) -> bytes:
        if self.digest_key_file is not None:
            return sources(info).file(self.digest_key_file).strip()
        return sources(info).variable(self.digest_key_env or "").encode(errors="surrogateescape").strip()

    @model_validator(mode="after")
    def _read_records(self, info: ValidationInfo) -> Self:
        if self.directory is None:
            if not self.store:
                raise CheckError((("store",), "records are nowhere then: write directory too, or leave this out"))
            return self
        try:
            found, problems = key_files.records(sources(info).folder / self.directory)
        except SourceError as error:
            raise CheckError((("directory",), str(error))) from None
        if problems:
            raise CheckError(*((("directory",), problem) for problem in problems))
        self._records = tuple(found)
        return self
