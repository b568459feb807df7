"""The connection to a management server: where it is, how it is believed, and why it ended."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from genops_extauth.xds_messages import ResponseError

_LONGEST_REASON: Final = 500
"""Characters. gRPC tells of each address that it tried."""
_WRITE_FAILED: Final = "Internal error from Core"
"""What grpc.aio says where a write met the end of the stream; it then forgets the status that the server gave."""
_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # a proxy that the environment names is for what is outside
    ("grpc.enable_retries", 0),
    # A server that vanished without a word is missed after this and a minute. grpc-go hangs up on who asks within 5
    # minutes of the last time (its keepalive.EnforcementPolicy), and Envoy Gateway leaves it at that.
    ("grpc.keepalive_time_ms", 330_000),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server is believed, and what it is shown; files in PEM, read anew for each stream.

    Without `ca_file` gRPC's own list of authorities is believed. `server_name` is that of the certificate, where the
    address has another.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Where limits come from. `server` is HOST:PORT, `node_id` and `node_metadata` what the server knows us by.

    `headers` are sent with each stream and may hold a secret: nothing shows them. `backoff` and `backoff_max` are in
    seconds. A response over `max_bytes` ends its stream.
    """

    server: str
    node_id: str = "default"
    node_metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: Tls | None = None
    backoff: float = 1.0
    backoff_max: float = 30.0
    max_bytes: int = 4 * 1024 * 1024  # as grpc-go, and with it envoyproxy/ratelimit


async def open_channel(settings: Settings) -> grpc.aio.Channel:
    """Make a channel of its own to the server. Raises `OSError` for a file that cannot be read."""
    options: list[tuple[str, str | int]] = [*_OPTIONS, ("grpc.max_receive_message_length", settings.max_bytes)]
    if settings.tls is None:
        return grpc.aio.insecure_channel(settings.server, options=options)
    if settings.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", settings.tls.server_name))
    credentials = await asyncio.to_thread(_credentials, settings.tls)
    return grpc.aio.secure_channel(settings.server, credentials, options=options)


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    files = (tls.ca_file, tls.key_file, tls.cert_file)
    return grpc.ssl_channel_credentials(*(None if file is None else file.read_bytes() for file in files))


def reason_of(error: Exception, headers: Mapping[str, str]) -> str:
    """Say why a stream ended, without what the server may have repeated of our headers."""
    match error:
        case grpc.aio.AioRpcError() if error.details() == _WRITE_FAILED:
            reason = "the server ended the stream while it was written to"
        case grpc.aio.AioRpcError():
            reason = f"{error.code().name}: {error.details()}"
        case OSError() | ResponseError():
            reason = str(error)
        case _:
            reason = f"internal error: {type(error).__name__}"
    for secret in headers.values():
        reason = reason.replace(secret, "***")
    return reason[:_LONGEST_REASON]
