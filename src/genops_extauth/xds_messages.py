"""DiscoveryResponse -> rate limits as a file would write them, and the DiscoveryRequests that answer it.

The messages are envoy.service.discovery.v3's (discovery.proto); the resource is ratelimit.config.ratelimit.v3's
RateLimitConfig (go-control-plane, rls_conf.proto).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value

from genops_extauth._pb import rlsconf_pb2 as rlsconf
from genops_extauth._pb import xds_pb2 as xds
from genops_extauth.strict_yaml import Document, Fault, Node

TYPE: Final = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"
_INVALID_ARGUMENT: Final = 3  # google.rpc.Code
_LONGEST_DETAIL: Final = 64 * 1024
"""Characters. A server takes 4 MiB as a rule, and would end the stream at more; a person reads the first of them."""
_UNITS: Final = {number: name.lower() for name, number in rlsconf.RateLimitUnit.items()}

_LINE: Final = 1
"""There are no lines in a message."""
_NOT_FINITE: Final = {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}  # YAML 1.1, float
_TRUE: Final = Node(_LINE, "true", bare=True)
_FALSE: Final = Node(_LINE, "false", bare=True)


class ResponseError(Exception):
    """Raised for bytes that are no DiscoveryResponse: without its nonce it can be neither accepted nor refused."""


@dataclass(frozen=True, slots=True)
class Client:
    """What a server knows us by (envoy.config.core.v3.Node)."""

    id: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class Resource(NamedTuple):
    """One RateLimitConfig, as a file that says the same: its name, and what a YAML parser would have made of it.

    Bytes that are no RateLimitConfig are a document that could not be read.
    """

    name: str
    document: Document


class Response(NamedTuple):
    """A DiscoveryResponse; of another type than `TYPE` it has no `resources`."""

    version: str
    nonce: str
    type_url: str
    resources: tuple[Resource, ...]


def request(client: Client, *, version: str = "", nonce: str = "", problems: Sequence[str] = ()) -> bytes:
    """Write a DiscoveryRequest: the first of a stream, or, with a `nonce`, the answer to the response that had it.

    `version` is the last that was accepted on the stream. With `problems` the response is refused.
    """
    metadata = Struct()
    metadata.update(client.metadata)
    message = xds.DiscoveryRequest(
        version_info=version, node=xds.Node(id=client.id, metadata=metadata), type_url=TYPE, response_nonce=nonce
    )
    if problems:
        message.error_detail.code = _INVALID_ARGUMENT
        message.error_detail.message = "\n".join(problems)[:_LONGEST_DETAIL]
    return message.SerializeToString()


def read_response(body: bytes) -> Response:
    """Read a DiscoveryResponse. Raises `ResponseError`."""
    try:
        message = xds.DiscoveryResponse.FromString(body)
    except DecodeError:
        raise ResponseError("what the server sent is not a DiscoveryResponse") from None
    packed = message.resources if message.type_url == TYPE else ()
    resources = tuple(_resource(place, each.type_url, each.value) for place, each in enumerate(packed))
    return Response(message.version_info, message.nonce, message.type_url, resources)


def _resource(place: int, type_url: str, value: bytes) -> Resource:
    unnamed = f"resource {place}"
    if type_url != TYPE:
        return Resource(unnamed, _unreadable(f"is a {type_url!r}; send {TYPE}"))
    try:
        message = rlsconf.RateLimitConfig.FromString(value)
    except DecodeError:
        # Protobuf does not say which; its parsers stop at 100 messages within each other.
        return Resource(unnamed, _unreadable("is no RateLimitConfig, has text that is not UTF-8, or nests too deep"))
    root = _mapping({"domain": _text(message.domain), "descriptors": _list(map(_descriptor, message.descriptors))})
    return Resource(message.name or unnamed, Document(root, ()))


def _unreadable(message: str) -> Document:
    return Document(None, (Fault(_LINE, message),))


def _descriptor(message: rlsconf.RateLimitDescriptor) -> Node:
    told = {"key": _text(message.key)}
    if message.value:
        told["value"] = _text(message.value)
    if message.HasField("rate_limit"):
        told["rate_limit"] = _policy(message.rate_limit)
    if message.descriptors:
        told["descriptors"] = _list(map(_descriptor, message.descriptors))
    for flag in ("shadow_mode", "detailed_metric", "quota_mode"):
        if getattr(message, flag):
            told[flag] = _TRUE
    if message.HasField("metadata"):
        told["metadata"] = _fields(message.metadata)
    return _mapping(told)


def _policy(message: rlsconf.RateLimitPolicy) -> Node:
    told = {"requests_per_unit": _bare(message.requests_per_unit)}
    if message.unit != rlsconf.UNKNOWN:
        told["unit"] = _text(_UNITS.get(message.unit, str(message.unit)))
    if message.unlimited:
        told["unlimited"] = _TRUE
    if message.name:
        told["name"] = _text(message.name)
    if message.replaces:
        told["replaces"] = _list(_mapping({"name": _text(replaced.name)}) for replaced in message.replaces)
    return _mapping(told)


def _fields(struct: Struct) -> Node:
    return _mapping({key: _value(value) for key, value in struct.fields.items()})


def _value(value: Value) -> Node:
    match value.WhichOneof("kind"):
        case "string_value":
            return _text(value.string_value)
        case "number_value":
            return _bare(value.number_value)
        case "bool_value":
            return _TRUE if value.bool_value else _FALSE
        case "struct_value":
            return _fields(value.struct_value)
        case "list_value":
            return _list(map(_value, value.list_value.values))
    return Node(_LINE, None)


def _text(text: str) -> Node:
    return Node(_LINE, text)


def _bare(number: float) -> Node:
    text = repr(number)
    return Node(_LINE, _NOT_FINITE.get(text, text), bare=True)


def _list(items: Iterable[Node]) -> Node:
    nodes = tuple(items)
    return Node(_LINE, nodes, *_extent(nodes))


def _mapping(items: Mapping[str, Node]) -> Node:
    return Node(_LINE, items, *_extent(items.values()))


def _extent(nodes: Collection[Node]) -> tuple[int, int]:
    return 1 + sum(node.size for node in nodes), 1 + max((node.height for node in nodes), default=0)
