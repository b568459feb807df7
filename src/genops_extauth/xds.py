"""Rate limits from a management server: state-of-the-world ADS, as envoyproxy/ratelimit asks with GRPC_XDS_SOTW.

The rules (envoyproxy.io, "xDS REST and gRPC protocol"):

* A response holds all limits that there are. It is taken over as a whole and acknowledged, or it changes nothing and is
  refused, with everything that is wrong with it. What is in force outlasts the stream, the server and our patience.
* A new stream asks without a version. Versions are the server's to choose, and Envoy Gateway counts them from 1 at each
  start: were we to name the one we have, a server that counted as far again would have nothing to tell us.
* go-control-plane answers a refusal with what was refused, at once. So the second refusal in a row waits, and each
  further one longer.
* However a stream ends, the next one waits. Waits double from `backoff` to `backoff_max`, until limits are accepted.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NoReturn

import grpc

from genops_extauth import xds_messages
from genops_extauth.xds_channel import Settings, open_channel, reason_of
from genops_extauth.xds_messages import Client, Resource, Response

_Call = grpc.aio.StreamStreamCall[bytes, bytes]

_METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_JITTER: Final = 0.5
"""Replicas that one restart cut off must not come back together: up to half earlier, never later."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A response was taken over, or, with `problems`, refused."""

    version: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """A stream ended, or could not be opened; the next one is tried in `pause` seconds."""

    reason: str
    pause: float


@dataclass(frozen=True, slots=True)
class Status:
    """What can be said of the source.

    `version` is that of the limits in force, None before the first. `error` is what went wrong last, empty once limits
    were accepted after it.
    """

    version: str | None = None
    error: str = ""


class XdsSource:
    """The limits that the server of `settings` gives, while `run` runs.

    `apply` puts what the resources of a response declare in force, in place of all before, or returns what is wrong
    with them and changes nothing. `observe` is told of every response and of every stream that ended; it neither
    blocks nor raises.
    """

    def __init__(
        self,
        settings: Settings,
        apply: Callable[[Sequence[Resource]], Awaitable[tuple[str, ...]]],
        observe: Callable[[Answered | Lost], None],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._apply = apply
        self._observe = observe
        self._sleep = sleep
        self._client = Client(settings.node_id, settings.node_metadata)
        self._failures = 0
        self._refusals = 0
        self._accepted = asyncio.Event()
        self.status = Status()

    async def first(self, within: float) -> None:
        """Wait until limits are in force, `within` seconds at most; raises `TimeoutError`, which says what is amiss."""
        try:
            async with asyncio.timeout(within):
                await self._accepted.wait()
        except TimeoutError:
            reason = self.status.error or f"it has none for the node {self._settings.node_id!r}"
            raise TimeoutError(f"{self._settings.server} gave no rate limits in {within:g} s: {reason}") from None

    async def run(self) -> NoReturn:
        """Ask, and go on asking, until cancelled."""
        while True:
            try:
                reason = await self._stream()
            except Exception as error:  # noqa: BLE001 - whatever ended this stream, the next one may bring limits
                reason = reason_of(error, self._settings.headers)
            self._failures += 1
            pause = self._pause(self._failures)
            self.status = replace(self.status, error=reason)
            self._observe(Lost(reason, pause))
            await self._sleep(pause)

    async def _stream(self) -> str:
        """Serve one stream to its end; returns why it ended where gRPC sees nothing wrong."""
        version = ""  # a new stream names none
        self._refusals = 0
        async with await open_channel(self._settings) as channel:
            call: _Call = channel.stream_stream(_METHOD)(metadata=tuple(self._settings.headers.items()))
            await _say(call, xds_messages.request(self._client))
            while isinstance(body := await call.read(), bytes):
                response = await asyncio.to_thread(xds_messages.read_response, body)
                problems = await self._considered(response)
                self._take_note(response, problems)
                await self._sleep(self._pause(self._refusals - 1))
                if response.type_url != xds_messages.TYPE:
                    continue  # to answer would be to ask for it
                if not problems:
                    version = response.version
                answer = xds_messages.request(self._client, version=version, nonce=response.nonce, problems=problems)
                await _say(call, answer)
        return "the server closed the stream"

    async def _considered(self, response: Response) -> tuple[str, ...]:
        """Take a response over, or say what is wrong with it."""
        if response.type_url != xds_messages.TYPE:
            return (f"the server sent {response.type_url!r}, which nobody asked for",)
        try:
            return await self._apply(response.resources)
        except Exception as error:  # noqa: BLE001 - a defect of ours is no reason to learn of no limits any more
            context = {"message": "limits of the management server could not be applied", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
            return ("internal error",)

    def _take_note(self, response: Response, problems: tuple[str, ...]) -> None:
        if problems:
            self._refusals += 1
            self.status = replace(self.status, error="; ".join(problems))
        else:
            self._refusals = self._failures = 0
            self.status = Status(response.version)
            self._accepted.set()
        self._observe(Answered(response.version, problems))

    def _pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        if failures < 1:
            return 0.0
        # The exponent is capped because 2.0 ** 1024 raises.
        longest = min(self._settings.backoff_max, self._settings.backoff * 2.0 ** min(failures - 1, 32))
        return longest * (1 - _JITTER * random.random())  # noqa: S311 - jitter


async def _say(call: _Call, message: bytes) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):  # the stream is over, and reading tells why
        await call.write(message)
