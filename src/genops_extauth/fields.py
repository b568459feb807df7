"""What the fields of the configuration are made of: sections, and kinds of values.

Every scalar arrives as the text that was written (`strict_yaml`); a kind reads it by its notation, passes a value
that is of its type already, and describes itself in JSON Schema as users write it.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from genops_extauth import notation
from genops_extauth.reserved_headers import ATTRIBUTES
from genops_extauth.sources import Sources
from genops_extauth.strict_yaml import Step

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

_LARGEST_SIZE = 2**31 - 1  # bytes; gRPC counts them in 32 bits, one of them for the sign

# 256 is what `claims` takes as an attribute; 64 what `limit_keys` writes into a key as it is.
_VISIBLE = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")
_ATTRIBUTE_VALUE = re.compile(r"(?=.{1,256}$)[!-+\--~]+(?: [!-+\--~]+)*")  # as `claims` takes them from tokens
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FIELD_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WORD = re.compile(r"[!-~]{1,64}")
_METADATA_NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")  # what gRPC sends as text
_METADATA_VALUE = re.compile(r"[ -~]{1,4096}")
_PROSE = re.compile(r"(?s).{0,4096}")
_FILE_NAME = re.compile(r"[^\x00-\x1f]+")
# RFC 1123, 2.1. A name in a certificate may begin with a wildcard.
_DNS_NAME = re.compile(r"(?=.{1,253}$)(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_PREFIX = re.compile(r"[A-Za-z0-9._:/@+-]{0,64}")


Complaint = tuple[tuple[Step, ...], str]
"""A path, relative to the section that is looked at, and what to do."""


class CheckError(ValueError):
    """Raised by a check whose complaints stand below the section or field that it looks at."""

    def __init__(self, *complaints: Complaint) -> None:
        super().__init__("; ".join(message for _, message in complaints))
        self.complaints = complaints


class Section(BaseModel):
    """A mapping with known keys. Written without content (``store:`` and nothing below) it is all defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, data: object) -> object:
        return {} if data is None else data


def sources(info: ValidationInfo) -> Sources:
    """Where the validation in progress looks for files and variables."""
    return info.context if isinstance(info.context, Sources) else Sources()


def setting(parse: Callable[[str], Any], default: str, description: str) -> Any:  # noqa: ANN401 - as pydantic's Field
    """Define a field whose default is written as users write it."""
    return Field(
        default_factory=partial(parse, default), description=description, json_schema_extra={"default": default}
    )


def _reader(parse: Callable[[str], T], *types: type[T]) -> PlainValidator:
    def validate(value: object) -> T:
        if isinstance(value, types):
            return value
        if not isinstance(value, str):
            raise ValueError("write one value here, not a list or a mapping")  # noqa: TRY004 - pydantic wants ValueError
        return parse(value)

    return PlainValidator(validate)


def _text(pattern: re.Pattern[str], message: str) -> AfterValidator:
    def validate(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(message)
        return value

    return AfterValidator(validate)


def between(low: str, high: str) -> AfterValidator:
    """Bound a duration, both ends included."""

    def validate(seconds: float) -> float:
        if not notation.duration(low) <= seconds <= notation.duration(high):
            raise ValueError(f"must be from {low} to {high}")
        return seconds

    return AfterValidator(validate)


def _from_to(low: int, high: int) -> AfterValidator:
    def validate(number: int) -> int:
        if not low <= number <= high:
            raise ValueError(f"must be from {low} to {high}")
        return number

    return AfterValidator(validate)


def one_of(names: tuple[str, ...], what: str) -> AfterValidator:
    """Accept only the given names."""

    def validate(value: str) -> str:
        if value not in names:
            raise ValueError(f"no such {what}; there are {', '.join(names)}")
        return value

    return AfterValidator(validate)


def distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    """Refuse a list that names something twice."""
    if len(set(values)) < len(values):
        raise ValueError("names something twice; keep each once")
    return values


def frozen(mapping: Mapping[K, V]) -> Mapping[K, V]:
    """Make a mapping read-only, as its section is."""
    return MappingProxyType(dict(mapping))


Duration = Annotated[
    float,
    _reader(notation.duration, float),
    WithJsonSchema({"type": "string", "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$", "examples": ["1h30m"]}),
]
"""Seconds, written ``250ms``, ``30s``, ``1h30m``."""

Count = Annotated[
    int,
    _reader(notation.count, int),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": notation.MAX_REQUESTS}),
]

Positive = Annotated[
    int,
    _reader(notation.count, int),
    _from_to(1, notation.MAX_REQUESTS),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": notation.MAX_REQUESTS}),
]

Size = Annotated[
    int,
    _reader(notation.count, int),
    _from_to(1, _LARGEST_SIZE),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": _LARGEST_SIZE}),
]
"""Bytes of a message."""

Share = Annotated[
    float,
    _reader(notation.share, float),
    WithJsonSchema(
        {
            "type": ["string", "number"],
            "pattern": r"^[0-9]{1,3}([.][0-9]{1,6})?%?$",
            "minimum": 0,
            "maximum": 1,
            "examples": ["10%", 0.8],
        }
    ),
]
"""From 0 to 1, written ``10%`` or ``0.1``."""

Boolean = Annotated[bool, _reader(notation.boolean, bool), WithJsonSchema({"type": "boolean"})]

RateText = Annotated[
    notation.Rate,
    _reader(notation.rate, notation.Rate),
    WithJsonSchema({"type": "string", "pattern": f"^[0-9]+/({'|'.join(notation.PERIODS)})$"}),
]

TcpAddress = Annotated[
    notation.Address,
    _reader(notation.tcp_address, notation.Address),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080", "[::1]:8080"]}),
]

ListenAddress = Annotated[
    notation.Address | notation.UnixPath,
    _reader(notation.listen_address, notation.Address, notation.UnixPath),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:50051", "unix:/run/genops/grpc.sock"]}),
]

Name = Annotated[str, _text(_NAME, "a name has 1 to 64 letters, digits, . _ or -, and starts with a letter or digit")]
"""Of a tier, a domain or a key prefix: it becomes part of headers, metrics and keys of the store."""

HeaderName = Annotated[str, _text(_FIELD_NAME, "a header name has 1 to 64 letters, digits and the signs - and _")]

Word = Annotated[str, _text(_WORD, "must be 1 to 64 visible ASCII characters, without spaces")]

Prose = Annotated[str, _text(_PROSE, "must be text of at most 4096 characters")]

FileName = Annotated[str, _text(_FILE_NAME, "write the name of a file or folder, which has no control characters")]
"""Relative to the folder of the configuration's file."""

MetadataName = Annotated[
    str, _text(_METADATA_NAME, "write it in lower case, not beginning with grpc- nor ending with -bin")
]
MetadataValue = Annotated[str, _text(_METADATA_VALUE, "must be visible ASCII characters and spaces")]
"""What gRPC can send as text beside a call (its PROTOCOL-HTTP2, Custom-Metadata)."""

Prefix = Annotated[str, _text(_PREFIX, "a prefix has up to 64 letters, digits and . _ : / @ + -")]

DnsName = Annotated[str, _text(_DNS_NAME, "must be a DNS name, for example envoy.example.com")]

Visible = Annotated[str, _text(_VISIBLE, "must be 1 to 256 visible ASCII characters")]
"""What can be the value of a header (RFC 9110, 5.5)."""

AttributeValue = Annotated[
    str, _text(_ATTRIBUTE_VALUE, "must be 1 to 256 visible ASCII characters, single spaces inside, no comma")
]

Attribute = Annotated[
    str, one_of(ATTRIBUTES, "governance attribute"), WithJsonSchema({"type": "string", "enum": list(ATTRIBUTES)})
]
