"""Rate limit requests in JSON, as envoyproxy/ratelimit answers them at /json: proto3's mapping of its gRPC messages.

What is asked becomes the very bytes that a gateway sends, and what we answer is made of those that it would get: both
ways there is one reading of a request, and one answer (protobuf.dev, "ProtoJSON Format").
"""

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

from google.protobuf import descriptor_pool, duration_pb2, json_format, message_factory, struct_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message

from genops_extauth._pb import rls_pb2 as rls
from genops_extauth.limit_messages import read_limit, write_limited
from genops_extauth.model import Descriptor, Limited, StoreUnavailable, Telling

Limit = Callable[[bytes, Sequence[Descriptor], int], Awaitable[Limited]]
"""`gate.Gate.limit`, or what decides as it does: domain, descriptors, the request's hits_addend."""

_BAD = HTTPStatus.BAD_REQUEST, b"Bad Request\n"


async def answer_json(body: bytes, limit: Limit, telling: Telling) -> tuple[HTTPStatus, bytes]:
    """Answer a RateLimitRequest in JSON: 200, 429 where it is over limit, and 400 for all that has no answer.

    That is envoyproxy/ratelimit's contract (src/server/server_impl.go), an outage of the store included.
    """
    try:
        message = json_format.Parse(body.decode(), _Request())
    except (json_format.ParseError, UnicodeDecodeError):
        return _BAD
    asked = read_limit(message.SerializeToString())
    if isinstance(asked, str):
        return _BAD
    try:
        limited = await limit(*asked)
    except StoreUnavailable:
        return _BAD
    answer = rls.RateLimitResponse.FromString(write_limited(asked, limited, telling))
    status = HTTPStatus.TOO_MANY_REQUESTS if limited.over else HTTPStatus.OK
    return status, json_format.MessageToJson(answer, indent=None).encode()


def _request_in_text() -> type[Message]:
    """RateLimitRequest with strings where ours has bytes: the same on the wire, but bytes are base64 in JSON."""
    file = FileDescriptorProto()
    rls.DESCRIPTOR.CopyToProto(file)
    for message in file.message_type:
        for each in (message, *message.nested_type):
            for field in each.field:
                if field.type == field.TYPE_BYTES:
                    field.type = field.TYPE_STRING
    pool = descriptor_pool.DescriptorPool()
    for known in (duration_pb2, struct_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(rls.RateLimitRequest.DESCRIPTOR.full_name))


_Request = _request_in_text()
