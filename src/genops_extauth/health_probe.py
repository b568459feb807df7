"""Asking a running sidecar whether it serves: by gRPC health, or where TLS keeps a probe out, by its HTTP port."""

import http.client
from collections.abc import Sequence
from contextlib import closing
from http import HTTPStatus
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

UNREACHABLE = "UNREACHABLE"
SERVING = "SERVING"


def open_channel(address: str, tls: Sequence[Path | None], server_name: str | None) -> grpc.Channel:
    """Make a channel; with any of the files `tls`, authorities, key and certificate, it is secured by them.

    `server_name` is the name in the server's certificate, if not the address's. Raises `OSError`, and `ValueError`.
    """
    # Not through a proxy that the environment names for what is outside.
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if not any(tls):
        return grpc.insecure_channel(address, options=options)
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    credentials = grpc.ssl_channel_credentials(*(None if file is None else file.read_bytes() for file in tls))
    return grpc.secure_channel(address, credentials, options=options)


def ask_health(channel: grpc.Channel, service: str, timeout: float) -> str:
    """Return grpc.health.v1's status of a service by name; an unreachable server is its own status, UNREACHABLE."""
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout)
    except grpc.RpcError as error:
        return "SERVICE_UNKNOWN" if error.code() is grpc.StatusCode.NOT_FOUND else UNREACHABLE
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


def ask_readiness(address: str, timeout: float) -> str:
    """Return what ``/readyz`` at HOST:PORT says, in the words of `ask_health`."""
    try:
        with closing(http.client.HTTPConnection(address, timeout=timeout)) as connection:
            connection.request("GET", "/readyz")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return UNREACHABLE
    return SERVING if status == HTTPStatus.OK else "NOT_SERVING"
