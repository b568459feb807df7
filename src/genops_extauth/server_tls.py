"""TLS on the gRPC port: what the server shows, whom it believes, and which of those it serves.

The files are read for each connection, which takes a tenth of what its handshake does: whoever renews them (Kubernetes
swaps a mounted Secret, cert-manager writes anew) restarts nothing. While they do not fit together, as between two
writes, what was shown before is shown.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, cast

import grpc

from genops_extauth.certificates import Credentials, CredentialsError, Files, expires, is_named, read_credentials


class ServerTls:
    """What `files` hold now, to secure a port with; `client_names` are those who may call, where not all may.

    `observe` is told, in the event loop that this is made in, of each renewal by an empty text, and of what keeps new
    files from being used.
    """

    @classmethod
    async def read(cls, files: Files, client_names: Sequence[str], observe: Callable[[str], None]) -> Self:
        """Make it of what the files hold. Raises `CredentialsError`."""
        return cls(files, await asyncio.to_thread(read_credentials, files), client_names, observe)

    def __init__(
        self, files: Files, shown: Credentials, client_names: Sequence[str], observe: Callable[[str], None]
    ) -> None:
        self._files = files
        self._shown = shown
        self._client_names = client_names
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._trouble = ""

    @property
    def expires(self) -> float:
        """When what is shown expires, in seconds since the epoch."""
        return expires(self._shown.cert)

    def credentials(self) -> grpc.ServerCredentials:
        """Make what a port is secured with."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._shown),
            self._renewed,  # type: ignore[arg-type]  # None, "no change", is missing in types-grpcio
            require_client_authentication=self._files.client_ca is not None,
        )

    def interceptors(self) -> tuple[grpc.aio.ServerInterceptor, ...]:
        """Make what stands before each call."""
        return (_ClientNames(self._client_names),) if self._client_names else ()

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what is new; gRPC asks for each connection, in threads of its own, one at a time."""
        try:
            found = read_credentials(self._files, self._shown)
        except CredentialsError as error:
            self._tell(str(error))
            return None
        if found == self._shown:
            self._trouble = ""
            return None
        self._shown = found
        self._tell("")
        return _configuration(found)

    def _tell(self, trouble: str) -> None:
        """Tell of a renewal, and of each trouble once."""
        before, self._trouble = self._trouble, trouble
        if not trouble or trouble != before:
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody is left to be told.
                self._loop.call_soon_threadsafe(self._observe, trouble)


def _configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(credentials.key, credentials.cert)], credentials.client_ca)


class _ClientNames(grpc.aio.ServerInterceptor):
    """Refuses calls on connections whose client has none of the names in its certificate.

    For each call, for gRPC lets nobody look at a certificate before; the reading takes 12 us. Names are those of kind
    DNS alone: a URI or a common name that reads like one says something else.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._guarded(handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        # Health's Watch: no other of our methods streams. It writes to the context, and is awaited as all others are.
        watch = cast("Callable[..., Awaitable[Any]]", handler.unary_stream)
        return grpc.unary_stream_rpc_method_handler(
            self._guarded(watch), handler.request_deserializer, handler.response_serializer
        )

    def _guarded(self, answer: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def guarded(request: object, context: "grpc.aio.ServicerContext[Any, Any]") -> object:
            names = (name.decode(errors="replace") for name in context.auth_context().get("peer_dns", ()))
            if not is_named(names, self._names):
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the client's certificate has another name")
            return await answer(request, context)

        return guarded
