"""Our proto subset, judged by an encoder that shares no code with ours: envoy-data-plane, made from Envoy's files."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.common.ratelimit.v3 as descriptors
import envoy_data_plane.envoy.service.auth.v3 as auth
import envoy_data_plane.envoy.service.discovery.v3 as discovery
import envoy_data_plane.envoy.service.ratelimit.v3 as ratelimit
import envoy_data_plane.envoy.type.v3 as types
import envoy_data_plane.google.protobuf as wellknown
import pytest
from envoy_data_plane.google import rpc
from google.protobuf import any_pb2, descriptor_pb2, duration_pb2, struct_pb2, wrappers_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

import genops_extauth
from ads_server import RLS_CONF
from genops_extauth._pb import ext_authz_pb2, rls_pb2, rlsconf_pb2, xds_pb2

PROTO = Path(__file__).parents[1] / "proto"
GENERATED = Path(genops_extauth.__file__).parent / "_pb"
FILES: tuple[FileDescriptor, ...] = (ext_authz_pb2.DESCRIPTOR, rls_pb2.DESCRIPTOR, xds_pb2.DESCRIPTOR)

THEIRS: dict[str, Any] = {
    "genops.wire.ext_authz.AttributeContext": auth.AttributeContext,
    "genops.wire.ext_authz.Address": core.Address,
    "genops.wire.ext_authz.AttributeContext.Peer": auth.AttributeContextPeer,
    "genops.wire.ext_authz.SocketAddress": core.SocketAddress,
    "genops.wire.ext_authz.AttributeContext.HttpRequest": auth.AttributeContextHttpRequest,
    "genops.wire.ext_authz.AttributeContext.Request": auth.AttributeContextRequest,
    "genops.wire.ext_authz.CheckRequest": auth.CheckRequest,
    "genops.wire.ext_authz.CheckResponse": auth.CheckResponse,
    "genops.wire.ext_authz.DeniedHttpResponse": auth.DeniedHttpResponse,
    "genops.wire.ext_authz.HeaderMap": core.HeaderMap,
    "genops.wire.ext_authz.HeaderValue": core.HeaderValue,
    "genops.wire.ext_authz.HeaderValueOption": core.HeaderValueOption,
    "genops.wire.ext_authz.HeaderValueOption.HeaderAppendAction": core.HeaderValueOptionHeaderAppendAction,
    "genops.wire.ext_authz.HttpStatus": types.HttpStatus,
    "genops.wire.ext_authz.OkHttpResponse": auth.OkHttpResponse,
    "genops.wire.ext_authz.Status": rpc.Status,
    "genops.wire.rls.HeaderValue": core.HeaderValue,
    "genops.wire.rls.RateLimitDescriptor": descriptors.RateLimitDescriptor,
    "genops.wire.rls.RateLimitDescriptor.Entry": descriptors.RateLimitDescriptorEntry,
    "genops.wire.rls.RateLimitDescriptor.RateLimitOverride": descriptors.RateLimitDescriptorRateLimitOverride,
    "genops.wire.rls.RateLimitRequest": ratelimit.RateLimitRequest,
    "genops.wire.rls.RateLimitResponse": ratelimit.RateLimitResponse,
    "genops.wire.rls.RateLimitResponse.Code": ratelimit.RateLimitResponseCode,
    "genops.wire.rls.RateLimitResponse.DescriptorStatus": ratelimit.RateLimitResponseDescriptorStatus,
    "genops.wire.rls.RateLimitResponse.RateLimit": ratelimit.RateLimitResponseRateLimit,
    "genops.wire.rls.RateLimitResponse.RateLimit.Unit": ratelimit.RateLimitResponseRateLimitUnit,
    "genops.wire.xds.DiscoveryRequest": discovery.DiscoveryRequest,
    "genops.wire.xds.DiscoveryResponse": discovery.DiscoveryResponse,
    "genops.wire.xds.Node": core.Node,
    "genops.wire.xds.Status": rpc.Status,
    "google.protobuf.Any": wellknown.Any,
    # betterproto hands these out as what Python has for them.
    "google.protobuf.Duration": timedelta,
    "google.protobuf.Struct": wellknown.Struct,
    "google.protobuf.UInt64Value": int,
}
"""The counterpart of each message and enum of ours."""

WIRE = {
    FieldDescriptor.TYPE_BYTES: ("bytes", "string"),  # What a client sent is bytes with us.
    FieldDescriptor.TYPE_STRING: ("string",),
    FieldDescriptor.TYPE_MESSAGE: ("message",),
    FieldDescriptor.TYPE_ENUM: ("enum",),
    FieldDescriptor.TYPE_INT32: ("int32", "enum"),  # HttpStatus.code: an enum of HTTP's numbers.
    FieldDescriptor.TYPE_UINT32: ("uint32",),
    FieldDescriptor.TYPE_BOOL: ("bool",),
}
"""The types of theirs that read and write the same bytes as ours."""


def all_messages(parents: Any = None) -> Iterator[Descriptor]:
    """Every message of ours; the entries of maps, which no one names, are left out."""
    for parent in FILES if parents is None else parents:
        nested = parent.message_types_by_name if isinstance(parent, FileDescriptor) else parent.nested_types_by_name
        messages = [message for message in nested.values() if not message.GetOptions().map_entry]
        yield from messages
        yield from all_messages(messages)


MESSAGES = tuple(all_messages())
ENUMS: tuple[EnumDescriptor, ...] = tuple(enum for message in MESSAGES for enum in message.enum_types)
FIELDS = tuple(field for message in MESSAGES for field in message.fields)


def by_name(thing: Any) -> str:
    return str(thing.full_name)


def test_the_table_is_whole() -> None:
    """Every message and enum of ours is compared with Envoy's, and nothing that we no longer have."""
    ours = {by_name(thing) for thing in (*MESSAGES, *ENUMS)}
    assert ours == {name for name in THEIRS if name.startswith("genops.")}


@pytest.mark.parametrize("field", FIELDS, ids=by_name)
def test_fields(field: FieldDescriptor) -> None:
    """Each field of ours has the number, wire type, multiplicity and oneof of Envoy's field of that name."""
    assert field.containing_type is not None
    reflection = THEIRS[field.containing_type.full_name]()._betterproto
    theirs = reflection.meta_by_field_name[field.name]
    assert field.number == theirs.number
    assert (field.containing_oneof.name if field.containing_oneof else None) == theirs.group
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        assert theirs.proto_type == "map"
        for ours, their in zip(field.message_type.fields, theirs.map_meta, strict=True):
            assert their.proto_type in WIRE[ours.type]
        return
    assert theirs.proto_type in WIRE[field.type]
    assert theirs.repeated == field.is_repeated
    if field.message_type is not None:
        assert reflection.cls_by_field[field.name] is THEIRS[field.message_type.full_name]
    if field.enum_type is not None:
        theirs_too = {member.name: member.value for member in reflection.cls_by_field[field.name]}
        assert theirs_too.items() <= members(field.enum_type).items()


def members(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


@pytest.mark.parametrize("enum", ENUMS, ids=by_name)
def test_enums(enum: EnumDescriptor) -> None:
    """Each enum of ours has the names and numbers of Envoy's, all of them."""
    assert members(enum) == {member.name: member.value for member in THEIRS[enum.full_name]}


def shape(messages: Iterable[Descriptor]) -> dict[str, set[tuple[Any, ...]]]:
    return {
        message.name: {
            (
                field.name,
                field.number,
                field.type,
                field.is_repeated,
                (field.message_type or field.enum_type or field).name,
            )
            for field in message.fields
        }
        for message in messages
    }


def test_rate_limit_config() -> None:
    """RateLimitConfig, which is not in Envoy's API, is go-control-plane's, all of it."""
    ours = rlsconf_pb2.DESCRIPTOR
    assert shape(top(ours)) == shape(top(RLS_CONF))
    (unit,) = RLS_CONF.enum_types_by_name.values()
    assert members(ours.enum_types_by_name[unit.name]) == members(unit)


SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BYTES: st.text(max_size=20).map(str.encode),
    FieldDescriptor.TYPE_STRING: st.text(max_size=20),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    # HttpStatus.code is an enum with them, which knows HTTP's numbers only.
    FieldDescriptor.TYPE_INT32: st.sampled_from([200, 401, 403, 429, 503]),
}


def value_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of one field that both sides can hold: text is UTF-8, for theirs is a string."""
    if field.message_type is not None:
        return message_of(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return SCALARS[field.type]


def content_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return st.dictionaries(st.text(max_size=20), st.text(max_size=20).map(str.encode), max_size=3)
    return st.lists(value_of(field), max_size=3) if field.is_repeated else value_of(field)


def message_of(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    match descriptor.full_name:
        case "google.protobuf.Struct":
            return st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3).map(struct_of)
        case "google.protobuf.Duration":
            return st.integers(0, 10**9).map(lambda seconds: duration_pb2.Duration(seconds=seconds))
        case "google.protobuf.Any":
            return st.binary(max_size=20).map(lambda value: any_pb2.Any(type_url="a/b", value=value))
        case "google.protobuf.UInt64Value":
            return st.integers(0, 2**64 - 1).map(lambda value: wrappers_pb2.UInt64Value(value=value))
    contents = {field.name: content_of(field) for field in descriptor.fields if not field.containing_oneof}
    for oneof in descriptor.oneofs:
        choice = st.sampled_from(list(oneof.fields)).flatmap(
            lambda field: st.tuples(st.just(field.name), content_of(field))
        )
        contents[oneof.name] = choice
    oneofs = frozenset(oneof.name for oneof in descriptor.oneofs)
    return st.fixed_dictionaries({}, optional=contents).map(
        lambda given: GetMessageClass(descriptor)(
            **dict(value if name in oneofs else (name, value) for name, value in given.items())
        )
    )


def struct_of(fields: dict[str, str]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(fields)
    return struct


ROOTS = st.sampled_from(
    [message for message in MESSAGES if message.name.startswith(("Check", "RateLimitRe", "Discovery"))]
).flatmap(message_of)


@given(ROOTS)
def test_round_trip(message: Message) -> None:
    """What we write, Envoy's classes read whole; what they write of it, we read as the same."""
    theirs = THEIRS[message.DESCRIPTOR.full_name].parse(message.SerializeToString())
    assert theirs._unknown_fields == b""
    assert type(message).FromString(bytes(theirs)) == message


def test_check_request() -> None:
    """A CheckRequest of Envoy's, with fields that we leave out, reads as what it says."""
    theirs = auth.CheckRequest(
        attributes=auth.AttributeContext(
            source=auth.AttributeContextPeer(service="ingress", labels={"a": "b"}),
            request=auth.AttributeContextRequest(
                http=auth.AttributeContextHttpRequest(
                    id="1",
                    method="POST",
                    path="/v1/models?x=1",
                    host="api.example.com",
                    scheme="https",
                    headers={":path": "/v1/models?x=1", "authorization": "Bearer t"},
                    header_map=core.HeaderMap(headers=[core.HeaderValue(key="x", raw_value=b"\xff")]),
                    body="{}",
                )
            ),
            context_extensions={"route": "a"},
        )
    )
    http = ext_authz_pb2.CheckRequest.FromString(bytes(theirs)).attributes.request.http
    assert (http.method, http.path, http.host) == (b"POST", b"/v1/models?x=1", b"api.example.com")
    assert dict(http.headers) == {":path": b"/v1/models?x=1", "authorization": b"Bearer t"}
    assert [(header.key, header.raw_value) for header in http.header_map.headers] == [(b"x", b"\xff")]


def test_rate_limit_request() -> None:
    """A descriptor's own hits_addend of 0 is told from one that is absent."""
    theirs = ratelimit.RateLimitRequest(
        domain="genops",
        descriptors=[
            descriptors.RateLimitDescriptor(
                entries=[descriptors.RateLimitDescriptorEntry(key="k", value="v")], hits_addend=0
            ),
            descriptors.RateLimitDescriptor(limit=descriptors.RateLimitDescriptorRateLimitOverride()),
        ],
        hits_addend=2,
    )
    ours = rls_pb2.RateLimitRequest.FromString(bytes(theirs))
    assert (ours.domain, ours.hits_addend) == (b"genops", 2)
    assert [(entry.key, entry.value) for entry in ours.descriptors[0].entries] == [(b"k", b"v")]
    assert [descriptor.HasField("hits_addend") for descriptor in ours.descriptors] == [True, False]


@given(st.binary(max_size=20))
def test_any_bytes_of_a_client(value: bytes) -> None:
    """Whatever bytes a client sends in a header or a descriptor, the message is read and they are kept."""
    request = rls_pb2.RateLimitRequest(
        descriptors=[rls_pb2.RateLimitDescriptor(entries=[rls_pb2.RateLimitDescriptor.Entry(key=b"k", value=value)])]
    )
    # As Envoy writes it: its `string` has the same wire format and is not checked in C++.
    wire = b"\x12" + _framed(b"\x0a" + _framed(b"\x0a\x01k" + (b"\x12" + _framed(value) if value else b"")))
    assert rls_pb2.RateLimitRequest.FromString(wire) == request
    http = b"\x1a" + _framed(b"\x0a\x01k\x12" + _framed(value))
    assert ext_authz_pb2.AttributeContext.HttpRequest.FromString(http).headers["k"] == value


def _framed(content: bytes) -> bytes:
    """Prefix a length below 128, which is its own varint."""
    return bytes([len(content)]) + content


def test_generated_files_are_current(tmp_path: Path) -> None:
    """Compiling proto/ again changes nothing, and every generated file has its source."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-I",
        ".",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
    ]
    subprocess.run([*command, *sources], cwd=PROTO, check=True, timeout=60)
    compiled = {path.name: path.read_bytes() for path in tmp_path.rglob("*_pb2.py*")}
    assert compiled == {path.name: path.read_bytes() for path in GENERATED.glob("*_pb2.py*")}
    assert len(compiled) == 2 * len(sources)


def test_no_clash() -> None:
    """Our files and names are our own: they load beside gRPC's health messages and beside Envoy's packages."""
    pool = DescriptorPool()
    for dependency in (any_pb2, duration_pb2, struct_pb2, wrappers_pb2, health_pb2):
        pool.AddSerializedFile(dependency.DESCRIPTOR.serialized_pb)
    for name, package in (
        ("envoy/service/auth/v3/external_auth.proto", "envoy.service.auth.v3"),
        ("envoy/service/ratelimit/v3/rls.proto", "envoy.service.ratelimit.v3"),
        ("envoy/service/discovery/v3/discovery.proto", "envoy.service.discovery.v3"),
        ("google/rpc/status.proto", "google.rpc"),
    ):
        messages = [descriptor_pb2.DescriptorProto(name=message.name) for file in FILES for message in top(file)]
        unique = {message.name: message for message in messages}.values()
        pool.Add(descriptor_pb2.FileDescriptorProto(name=name, package=package, message_type=unique))
    for file in (*FILES, rlsconf_pb2.DESCRIPTOR, RLS_CONF):
        pool.AddSerializedFile(file.serialized_pb)
    for message in (*MESSAGES, *top(rlsconf_pb2.DESCRIPTOR)):
        assert pool.FindMessageTypeByName(message.full_name).file.name.startswith("genops_extauth/_pb/")


def top(file: FileDescriptor) -> Iterator[Descriptor]:
    yield from file.message_types_by_name.values()
