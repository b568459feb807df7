"""The unit of all ratios: a grpc.aio server whose one handler gets bytes and returns none."""

import asyncio
import sys

import grpc
import grpc.aio

PATH = "/envoy.service.auth.v3.Authorization/Check"


async def _check(_request: bytes, _context: object) -> bytes:
    return b""


async def serve(address: str) -> None:
    """Serves until it is ended."""
    _, service, method = PATH.split("/")
    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {method: grpc.unary_unary_rpc_method_handler(_check)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
