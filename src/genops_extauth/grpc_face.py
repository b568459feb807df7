"""Envoy's two services, in bytes and out of bytes, so that no message can fail before our code sees it."""

from dataclasses import dataclass

import grpc

from genops_extauth.check_messages import read_check, refusal, write_check
from genops_extauth.gate import Gate
from genops_extauth.limit_messages import read_limit, write_limited
from genops_extauth.model import Reason, StoreUnavailable

AUTHORIZATION = "envoy.service.auth.v3.Authorization"
RATE_LIMIT = "envoy.service.ratelimit.v3.RateLimitService"


@dataclass(frozen=True, slots=True)
class Face:
    """The handlers of both services."""

    gate: Gate

    async def check(self, body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Answer envoy.service.auth.v3.Authorization/Check. Never raises, never aborts."""
        try:
            return write_check(await self.gate.check(read_check(body), context.time_remaining))
        except Exception:  # noqa: BLE001 - the last net: failure_mode_allow lets a failed call pass
            return refusal(Reason.INTERNAL)

    async def should_rate_limit(self, body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Answer envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit.

        Aborts with INVALID_ARGUMENT on a request that no gateway sends, with UNAVAILABLE where the store cannot answer;
        never with UNKNOWN, for which no failure mode of Envoy's is meant.
        """
        asked = read_limit(body)
        if isinstance(asked, str):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, asked)
        headers = self.gate.generation.headers  # of the generation that decides, too: nothing is awaited before it does
        try:
            limited = await self.gate.limit(*asked)
        except StoreUnavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return write_limited(limited, headers=headers)

    def handlers(self) -> dict[str, dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]]:
        """All methods by service, with no (de)serialiser: bytes in, bytes out."""
        return {
            AUTHORIZATION: {"Check": grpc.unary_unary_rpc_method_handler(self.check)},
            RATE_LIMIT: {"ShouldRateLimit": grpc.unary_unary_rpc_method_handler(self.should_rate_limit)},
        }
