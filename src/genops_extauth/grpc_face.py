"""Envoy's two services, in bytes and out of bytes, so that no message can fail before our code sees it."""

from collections.abc import Collection
from dataclasses import dataclass

import grpc

from genops_extauth.check_messages import read_check, refused, write_check
from genops_extauth.gate import Gate
from genops_extauth.limit_messages import read_limit, write_limited
from genops_extauth.model import StoreUnavailable
from genops_extauth.reasons import Reason

AUTHORIZATION = "envoy.service.auth.v3.Authorization"
RATE_LIMIT = "envoy.service.ratelimit.v3.RateLimitService"

_Methods = dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]


@dataclass(frozen=True, slots=True)
class Face:
    """The handlers of both services."""

    gate: Gate

    async def check(self, body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Answer envoy.service.auth.v3.Authorization/Check. Never raises, never aborts."""
        try:
            return write_check(await self.gate.check(read_check(body), context.time_remaining))
        except Exception:  # noqa: BLE001 - the last net: failure_mode_allow lets a failed call pass
            return refused(Reason.INTERNAL)

    async def should_rate_limit(self, body: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """Answer envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit.

        Aborts with INVALID_ARGUMENT on a request that no gateway sends, with UNAVAILABLE where the store cannot answer;
        never with UNKNOWN, for which no failure mode of Envoy's is meant.
        """
        asked = read_limit(body)
        if isinstance(asked, str):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, asked)
        telling = self.gate.generation.telling  # of the generation that decides: nothing is awaited before it does
        try:
            limited = await self.gate.limit(*asked, context.time_remaining())
            return write_limited(asked, limited, telling)
        except StoreUnavailable as error:
            unavailable = str(error)
        except Exception:  # noqa: BLE001 - the last net, as above
            unavailable = "internal error"
        return await context.abort(grpc.StatusCode.UNAVAILABLE, unavailable)

    def handlers(self, services: Collection[str]) -> dict[str, _Methods]:
        """The methods of these services, with no (de)serialiser: bytes in, bytes out."""
        methods: dict[str, _Methods] = {
            AUTHORIZATION: {"Check": grpc.unary_unary_rpc_method_handler(self.check)},
            RATE_LIMIT: {"ShouldRateLimit": grpc.unary_unary_rpc_method_handler(self.should_rate_limit)},
        }
        return {service: methods[service] for service in services}
