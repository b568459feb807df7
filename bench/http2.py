"""A client's half of HTTP/2 (RFC 9113) that asks one question with many bodies, in as few Python steps as can be.

No I/O: `Connection.outgoing` is what to write, `Connection.receive` takes what was read. What makes it fast enough to
keep a server busy from one core: the request's header block is the same bytes every time (after the first request all
of it stands in the dynamic table of RFC 7541), and header blocks of responses are recognised by their bytes. What makes
it honest: every response is judged, trailers and body included; a 200 with a failing grpc-status is an error.

Not supported, and said with an exception: padding, CONTINUATION, bodies larger than the stream's window.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import hpack

Headers = tuple[tuple[bytes, bytes], ...]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED_OR_PRIORITY = 0x28
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5

LARGEST_WINDOW = 2**31 - 1  # RFC 9113, 6.9.1
FIRST_WINDOW = 65_535  # RFC 9113, 6.9.2: of the connection, and of a stream until SETTINGS say otherwise
DEFAULT_SETTINGS = {
    HEADER_TABLE_SIZE: 4096,
    MAX_CONCURRENT_STREAMS: LARGEST_WINDOW,
    INITIAL_WINDOW_SIZE: FIRST_WINDOW,
    MAX_FRAME_SIZE: 16_384,
}

_HEAD = struct.Struct(">BHBBL")  # length (in two parts), type, flags, stream
_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how a right answer is known.

    `headers` are the same for every request. A right answer carries every pair of `expected` in its headers or
    trailers, and its body contains `marker`.
    """

    headers: tuple[tuple[str, str], ...]
    expected: Headers
    marker: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's end. `asked_at` is what `ask` was given; `problem` is empty when the answer was right."""

    asked_at: float
    problem: str = ""


@dataclass(slots=True)
class _Stream:
    asked_at: float
    missing: int  # a bit for each expected header, the highest for the marker
    headers: Headers = ()


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113, 4.1."""
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


class HeaderBlocks:
    """Reads header blocks, and knows the usual ones by their bytes.

    The same bytes mean the same headers for as long as the dynamic table (RFC 7541, 2.3.2) stays as it is. So a block
    that left the table alone is decoded once, and all are forgotten when one changes it.
    """

    def __init__(self, expected: Headers) -> None:
        self._decoder = hpack.Decoder()
        self._bits = {pair: 1 << index for index, pair in enumerate(expected)}
        self._known: dict[bytes, tuple[int, Headers]] = {}

    def read(self, block: bytes) -> tuple[int, Headers]:
        """The bits of the expected headers that `block` holds, and all its headers."""
        known = self._known.get(block)
        return self._decode(block) if known is None else known

    def _decode(self, block: bytes) -> tuple[int, Headers]:
        table = self._decoder.header_table
        before = tuple(table.dynamic_entries)
        headers = tuple((bytes(pair[0]), bytes(pair[1])) for pair in self._decoder.decode(block, raw=True))
        found = sum({self._bits.get(pair, 0) for pair in headers})
        if tuple(table.dynamic_entries) != before:
            self._known.clear()
        else:
            self._known[block] = found, headers
        return found, headers


class Connection:
    """One connection: `ask`, write `outgoing`, `receive`, and again."""

    def __init__(self, question: Question) -> None:
        self.outgoing: list[bytes] = []
        self.ready = False  # the server's SETTINGS were seen
        self._headers = question.headers
        self._marker = question.marker
        self._marker_bit = 1 << len(question.expected)
        self._everything = 2 * self._marker_bit - 1 if question.marker else self._marker_bit - 1
        self._blocks = HeaderBlocks(question.expected)
        self._encoder = hpack.Encoder()
        self._block, self._same_blocks = b"", 0
        self._streams: dict[int, _Stream] = {}
        self._next_stream = 1
        self._settings = DEFAULT_SETTINGS
        self._window = FIRST_WINDOW
        self._received = 0
        self._rest = b""
        self._answers: list[Answer] = []
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            DATA: self._on_data,
            HEADERS: self._on_headers,
            RST_STREAM: self._on_reset,
            SETTINGS: self._on_settings,
            PING: self._on_ping,
            GOAWAY: self._on_goaway,
            WINDOW_UPDATE: self._on_window,
        }
        settings = _SETTING.pack(ENABLE_PUSH, 0) + _SETTING.pack(INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
        self.outgoing += [PREFACE, frame(SETTINGS, 0, 0, settings), self._grant(LARGEST_WINDOW - FIRST_WINDOW)]

    @property
    def in_flight(self) -> int:
        """How many answers are outstanding."""
        return len(self._streams)

    def has_room(self, streams: int, body: int) -> bool:
        """Whether one more request with `body` bytes may be sent now, with at most `streams` in flight."""
        limit = min(streams, self._settings[MAX_CONCURRENT_STREAMS])
        return self.ready and len(self._streams) < limit and self._window >= body

    def ask(self, body: bytes, asked_at: float) -> None:
        """One request. It needs `has_room`. An empty body is none (a GET)."""
        if len(body) > self._settings[INITIAL_WINDOW_SIZE]:
            raise ValueError(f"a body of {len(body)} bytes does not fit the server's window: use a smaller one")
        stream = self._next_stream
        self._next_stream += 2
        self._streams[stream] = _Stream(asked_at, self._everything)
        self.outgoing.append(frame(HEADERS, END_HEADERS if body else END_HEADERS | END_STREAM, stream, self._head()))
        if body:
            self._window -= len(body)
            self.outgoing += self._data(stream, body)

    def receive(self, data: bytes) -> list[Answer]:
        """What `data`, read from the server, completes."""
        buffer = self._rest + data
        size, at = len(buffer), 0
        while size - at >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            start = at + _HEAD.size
            end = start + (high << 16 | low)
            if end > size:
                break
            handler = self._handlers.get(kind)
            if handler is None:
                raise ConnectionError(f"the server sent a frame of type {kind}, which this client does not support")
            handler(flags, stream, buffer[start:end])
            at = end
        self._rest = buffer[at:]
        answers, self._answers = self._answers, []
        return answers

    def _data(self, stream: int, body: bytes) -> Iterator[bytes]:
        most = self._settings[MAX_FRAME_SIZE]
        for start in range(0, len(body), most):
            yield frame(DATA, END_STREAM if start + most >= len(body) else 0, stream, body[start : start + most])

    def _head(self) -> bytes:
        # The first request enters its headers into the server's table; the second is made of indices, and stays so.
        if self._same_blocks < 2:
            self._block = self._encoder.encode(self._headers)
            self._same_blocks += 1
        return self._block

    def _grant(self, size: int) -> bytes:
        return frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(size))

    def _end(self, stream: int, problem: str = "") -> None:
        ended = self._streams.pop(stream)
        if ended.missing and not problem:
            seen = b", ".join(b": ".join(pair) for pair in ended.headers) or b"no headers"
            problem = f"wrong answer: {seen.decode('ascii', 'replace')}"
        self._answers.append(Answer(ended.asked_at, problem))

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & PADDED_OR_PRIORITY or not flags & END_HEADERS:
            raise ConnectionError("the server padded or split its headers, which this client does not support")
        found, headers = self._blocks.read(payload)
        current = self._streams[stream]
        current.missing &= ~found
        current.headers += headers
        if flags & END_STREAM:
            self._end(stream)

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received > LARGEST_WINDOW // 2:
            self.outgoing.append(self._grant(self._received))
            self._received = 0
        if self._marker and self._marker in payload:
            self._streams[stream].missing &= ~self._marker_bit
        if flags & END_STREAM:
            self._end(stream)

    def _on_reset(self, _flags: int, stream: int, payload: bytes) -> None:
        # After a whole answer a server may reset the stream all the same (RFC 9113, 8.1): that one is counted already.
        if stream in self._streams:
            self._end(stream, f"stream reset with error code {_NUMBER.unpack(payload)[0]}")

    def _on_settings(self, flags: int, _stream: int, payload: bytes) -> None:
        if flags & ACK:
            return
        self._settings = self._settings | dict(_SETTING.iter_unpack(payload))
        self._encoder.header_table_size = min(4096, self._settings[HEADER_TABLE_SIZE])
        self._same_blocks = 0
        self.outgoing.append(frame(SETTINGS, ACK, 0, b""))
        self.ready = True

    def _on_ping(self, flags: int, _stream: int, payload: bytes) -> None:
        if not flags & ACK:
            self.outgoing.append(frame(PING, ACK, 0, payload))

    def _on_goaway(self, _flags: int, _stream: int, payload: bytes) -> None:
        _, code = struct.unpack_from(">LL", payload)
        raise ConnectionError(f"the server closes the connection with error code {code}: {payload[8:]!r}")

    def _on_window(self, _flags: int, stream: int, payload: bytes) -> None:
        if stream == 0:
            self._window += _NUMBER.unpack(payload)[0]
