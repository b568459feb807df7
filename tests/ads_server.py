"""A management server of the test's own: ADS over real gRPC, written with an encoder that shares no code with ours.

The envelope is envoy-data-plane's. RateLimitConfig is not in Envoy's API, so its descriptor is built here, from
go-control-plane's ratelimit/config/ratelimit/v3/rls_conf.proto.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryRequest, DiscoveryResponse
from envoy_data_plane.google.protobuf import Any as Packed
from google.protobuf import struct_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

TYPE = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_PACKAGE = "ratelimit.config.ratelimit.v3"

Context = grpc.aio.ServicerContext[bytes, bytes]


_TEXT, _FLAG, _NUMBER = (
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_BOOL,
    FieldDescriptorProto.TYPE_UINT32,
)
_ONE, _MANY = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED

_MESSAGES: dict[str, dict[str, tuple[Any, ...]]] = {
    "RateLimitConfig": {
        "name": (1, _ONE, _TEXT),
        "domain": (2, _ONE, _TEXT),
        "descriptors": (3, _MANY, f".{_PACKAGE}.RateLimitDescriptor"),
    },
    "RateLimitDescriptor": {
        "key": (1, _ONE, _TEXT),
        "value": (2, _ONE, _TEXT),
        "rate_limit": (3, _ONE, f".{_PACKAGE}.RateLimitPolicy"),
        "descriptors": (4, _MANY, f".{_PACKAGE}.RateLimitDescriptor"),
        "shadow_mode": (5, _ONE, _FLAG),
        "detailed_metric": (6, _ONE, _FLAG),
        "quota_mode": (7, _ONE, _FLAG),
        "metadata": (8, _ONE, ".google.protobuf.Struct"),
    },
    "RateLimitPolicy": {
        "unit": (1, _ONE, f".{_PACKAGE}.RateLimitUnit"),
        "requests_per_unit": (2, _ONE, _NUMBER),
        "unlimited": (3, _ONE, _FLAG),
        "name": (4, _ONE, _TEXT),
        "replaces": (5, _MANY, f".{_PACKAGE}.RateLimitReplace"),
    },
    "RateLimitReplace": {"name": (1, _ONE, _TEXT)},
}
_UNITS = {"UNKNOWN": 0, "SECOND": 1, "MINUTE": 2, "HOUR": 3, "DAY": 4, "MONTH": 5, "YEAR": 6, "WEEK": 7}


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="ratelimit/config/ratelimit/v3/rls_conf.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append("google/protobuf/struct.proto")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, label, kind) in fields.items():
            # What a name names, a message or an enum, is found out when the file is linked.
            what = {"type_name": kind} if isinstance(kind, str) else {"type": kind}
            message.field.add(name=field, number=number, label=label, **what)
    unit = file.enum_type.add(name="RateLimitUnit")
    for name, number in _UNITS.items():
        unit.value.add(name=name, number=number)
    return file


_POOL = DescriptorPool()
_POOL.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
_POOL.Add(_file())
RLS_CONF = _POOL.FindFileByName("ratelimit/config/ratelimit/v3/rls_conf.proto")
"""What RateLimitConfig is, as go-control-plane has it."""


def rate_limit_config(content: dict[str, Any]) -> bytes:
    """Encode a RateLimitConfig that is written as in protobuf's JSON: `{"domain": ..., "descriptors": [...]}`."""
    message = GetMessageClass(RLS_CONF.message_types_by_name["RateLimitConfig"])()
    return ParseDict(content, message).SerializeToString()


def limits(domain: str, requests: int, **more: Any) -> bytes:
    """Encode a RateLimitConfig of one limit."""
    descriptor = {"key": "k", "rate_limit": {"unit": "MINUTE", "requests_per_unit": requests}}
    return rate_limit_config({"name": domain, "domain": domain, "descriptors": [descriptor], **more})


def discovery_response(
    version: str, resources: Iterable[bytes], *, nonce: str | None = None, type_url: str = TYPE, packed: str = TYPE
) -> bytes:
    """Encode a DiscoveryResponse; its nonce is ``n-VERSION``, if no other is given. `packed` is the resources' type."""
    return bytes(
        DiscoveryResponse(
            version_info=version,
            nonce=f"n-{version}" if nonce is None else nonce,
            type_url=type_url,
            resources=[Packed(type_url=packed, value=resource) for resource in resources],
        )
    )


class Stream:
    """One stream that a client opened; `headers` are its metadata."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._requests: asyncio.Queue[DiscoveryRequest] = asyncio.Queue()
        self._end: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self.headers = dict(context.invocation_metadata() or ())

    async def request(self) -> DiscoveryRequest:
        """Wait for the next request, decoded by envoy-data-plane."""
        return await self._requests.get()

    @property
    def unread(self) -> int:
        """How many requests came that nobody asked for."""
        return self._requests.qsize()

    async def send(self, version: str, *resources: bytes, **envelope: str) -> None:
        """Send a response of `resources`."""
        await self._context.write(discovery_response(version, resources, **envelope))

    async def send_bytes(self, body: bytes) -> None:
        """Send any bytes for a response."""
        await self._context.write(body)

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        """End the stream."""
        self._end.set_result((code, details))

    async def ended(self) -> None:
        """Wait until the client, or its connection, is gone."""
        await self._over.wait()

    async def serve(self) -> None:
        """Take in requests until the end."""
        reading = asyncio.ensure_future(self._read())
        try:
            code, details = await self._end
            if code is not grpc.StatusCode.OK:
                await self._context.abort(code, details)
        finally:
            reading.cancel()
            self._over.set()

    async def _read(self) -> None:
        while isinstance(body := await self._context.read(), bytes):
            self._requests.put_nowait(DiscoveryRequest.parse(body))


class AdsServer:
    """Listens on a free loopback port. Each stream that a client opens can be had once, in order.

    While `refusing` is set, streams end at once with it, and are only counted in `opened`.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.opened = 0
        self.refusing: grpc.StatusCode | None = None
        self.port = 0
        self._credentials = credentials
        self._streams: asyncio.Queue[Stream] = asyncio.Queue()
        self._open: set[Stream] = set()
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def stream(self) -> Stream:
        """Wait for the next stream."""
        return await self._streams.get()

    async def up(self) -> None:
        """Listen; after `down`, on the same port."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._handle)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"StreamAggregatedResources": handler}),)
        )
        if self._credentials is None:
            self.port = server.add_insecure_port(self.address)
        else:
            self.port = server.add_secure_port(self.address, self._credentials)
        await server.start()
        self._server = server

    async def down(self) -> None:
        """Drop every stream and stop listening."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def _handle(self, _: AsyncIterator[bytes], context: Context) -> None:
        self.opened += 1
        if self.refusing is not None:
            if self.refusing is not grpc.StatusCode.OK:
                await context.abort(self.refusing, "not today")
            return
        stream = Stream(context)
        self._streams.put_nowait(stream)
        await stream.serve()


@contextlib.asynccontextmanager
async def ads_server(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[AdsServer]:
    """Run one; it is down afterwards."""
    server = AdsServer(credentials)
    await server.up()
    try:
        yield server
    finally:
        await server.down()
