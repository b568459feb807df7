import contextlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import hpack
import jwt
import pytest
from bench import api_keys, credentials, servers, timing
from bench.answers import CHECK, WrongAnswerError, empty
from bench.bodies import check_request, checks, grpc_message, limit_request, limits
from bench.cases import Case, cases
from bench.credentials import AUDIENCE, CUSTOMER, Material, forged, overdue
from bench.flood import flooded
from bench.http2 import Connection, HeaderBlocks, Question
from bench.load import Address, Result, saturate, steady
from bench.measure import Row, right
from bench.processes import running
from bench.table import Failure, Unit, table, verdict
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from genops_extauth import apikeys

HEADERS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "test"),
    (":path", CHECK),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)
OK = ((b":status", b"200"), (b"grpc-status", b"0"))
QUESTION = Question(HEADERS, OK)
BODY = grpc_message(b"x" * 1100)
CORE = min(os.sched_getaffinity(0))

Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


@contextlib.contextmanager
def grpc_server(behaviour: Behaviour, threads: int = 4) -> Iterator[Address]:
    _, service, method = CHECK.split("/")
    server = grpc.server(ThreadPoolExecutor(threads))
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {method: grpc.unary_unary_rpc_method_handler(behaviour)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield "127.0.0.1", port
    finally:
        server.stop(None).wait()


def test_every_answer_of_the_baseline_is_counted_and_right(tmp_path: Path) -> None:
    """At full speed every request that was sent is counted once, as right, and the server's CPU is measured."""
    with servers.baseline(tmp_path, CORE) as (process, address):
        empty(address, BODY)
        before = process.cpu()
        result = saturate(address, QUESTION, itertools.repeat(BODY, 700), seconds=60)
        assert process.cpu() > before
        assert process.resident() > 1

    assert (result.answered, result.errors, result.first_error) == (700, 0, "")
    assert len(result.latencies) == 700
    assert result.latencies == tuple(sorted(result.latencies))


def test_a_fixed_rate_sends_what_is_due(tmp_path: Path) -> None:
    """At a fixed rate as many requests are sent as are due within the time, and no more."""
    with servers.baseline(tmp_path, CORE) as (_, address):
        result = steady(address, QUESTION, itertools.repeat(BODY), seconds=0.5, rate=400)

    assert (result.answered, result.errors) == (200, 0)
    assert result.seconds >= 199 / 400


def test_a_failing_status_in_the_trailers_is_an_error() -> None:
    """An HTTP 200 whose trailers say grpc-status 13 is an error, each time."""

    def fail(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.INTERNAL, "no")

    with grpc_server(fail) as address:
        result = saturate(address, QUESTION, itertools.repeat(BODY, 50), seconds=60)

    assert (result.answered, result.errors) == (50, 50)
    assert ":status: 200" in result.first_error
    assert "grpc-status: 13" in result.first_error


def test_one_wrong_answer_among_right_ones_is_found() -> None:
    """A single answer whose body lacks the marker is one error, however many right ones surround it."""
    count = itertools.count()

    def odd(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        return b"denied" if next(count) == 60 else b"granted"

    with grpc_server(odd) as address:
        result = saturate(address, Question(HEADERS, OK, b"granted"), itertools.repeat(BODY, 200), seconds=60)

    assert (result.answered, result.errors) == (200, 1)


def test_a_fixed_rate_waits_for_nobody() -> None:
    """Requests go on being sent while an answer is outstanding, and that answer's latency is the whole wait."""
    twentieth, count = threading.Event(), itertools.count(1)

    def first_waits(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        number = next(count)
        if number == 20:
            twentieth.set()
        if number == 1:
            twentieth.wait(60)
        return b""

    with grpc_server(first_waits) as address:
        result = steady(address, QUESTION, itertools.repeat(BODY), seconds=0.25, rate=100)

    assert (result.answered, result.errors) == (25, 0)
    assert result.percentile(100) >= 19 / 100
    assert result.percentile(50) < 19 / 100


def test_a_late_request_counts_its_lateness(tmp_path: Path) -> None:
    """Latency runs from the moment when a request was due, even when the client was held up before it sent it."""

    def held_up() -> Iterator[bytes]:
        yield from itertools.repeat(BODY, 10)
        release = time.perf_counter() + 0.1
        while time.perf_counter() < release:
            pass
        yield from itertools.repeat(BODY, 10)

    with servers.baseline(tmp_path, CORE) as (_, address):
        result = steady(address, QUESTION, held_up(), seconds=60, rate=1000)

    assert (result.answered, result.errors) == (20, 0)
    assert result.percentile(60) >= 0.08


def test_a_row_is_refused_before_it_is_measured() -> None:
    """The answer that is looked at before a row must be right, or the row has no figures."""
    with grpc_server(lambda _request, _context: b"surprise") as address, pytest.raises(WrongAnswerError, match="empty"):
        empty(address, BODY)


headers = st.lists(
    st.tuples(
        st.sampled_from([":status", "grpc-status", "date", "x-id"]), st.sampled_from(["0", "200", "a", "b" * 40])
    ),
    min_size=1,
    max_size=5,
)


# The second and the fourth block are the same byte, the newest entry of the table, and mean different things.
@example(blocks=[[("x-id", "a")], [("x-id", "a")], [("x-id", "b")], [("x-id", "b")]], table=4096)
@given(blocks=st.lists(headers, max_size=30), table=st.sampled_from([0, 64, 120, 4096]))
def test_a_block_known_by_its_bytes_means_what_it_says(blocks: list[list[tuple[str, str]]], table: int) -> None:
    """Whatever an encoder does to its dynamic table, each block's headers are those that were encoded."""
    encoder, reader = hpack.Encoder(), HeaderBlocks(OK)
    encoder.header_table_size = table
    for block in blocks:
        expected = tuple((name.encode(), value.encode()) for name, value in block)

        found, seen = reader.read(encoder.encode(block))

        assert seen == expected
        assert found == (OK[0] in expected) + 2 * (OK[1] in expected)


class Peer:
    """The server's half, by h2: it refuses what RFC 9113 refuses."""

    def __init__(self, question: Question) -> None:
        self.client = Connection(question)
        self.server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.server.initiate_connection()
        self.deliver()

    def deliver(self) -> list[h2.events.Event]:
        """What the server sees of all that the client and it have to say."""
        events = list(self.server.receive_data(self.pop()))
        self.client.receive(self.server.data_to_send())
        return events + list(self.server.receive_data(self.pop()))

    def pop(self) -> bytes:
        data = b"".join(self.client.outgoing)
        self.client.outgoing.clear()
        return data


@given(cuts=st.lists(st.integers(1, 40), min_size=1), split=st.integers(0, 8))
def test_an_answer_in_pieces_is_the_same_answer(cuts: list[int], split: int) -> None:
    """However the network cuts the bytes, the answers are the same."""
    peer = Peer(QUESTION)
    for number in range(3):
        peer.client.ask(BODY, float(number))
    peer.deliver()
    for stream in (1, 3, 5):
        peer.server.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        peer.server.send_data(stream, b"x" * split)
        peer.server.send_headers(stream, [("grpc-status", "0" if stream != 3 else "13")], end_stream=True)
    data = peer.server.data_to_send()

    answers, sizes = [], itertools.cycle(cuts)
    while data:
        size = next(sizes)
        answers += peer.client.receive(data[:size])
        data = data[size:]

    assert [(answer.asked_at, bool(answer.problem)) for answer in answers] == [(0.0, False), (1.0, True), (2.0, False)]
    assert peer.client.in_flight == 0


def test_the_clients_requests_are_what_was_asked() -> None:
    """The first request, the second (made of indices) and all others carry the same headers and their own body."""
    peer = Peer(QUESTION)
    bodies = [grpc_message(str(number).encode()) for number in range(4)]
    for body in bodies:
        peer.client.ask(body, 0.0)

    events = peer.deliver()

    asked = [event.headers for event in events if isinstance(event, h2.events.RequestReceived)]
    assert [[(name.decode(), value.decode()) for name, value in each] for each in asked] == [list(HEADERS)] * 4
    assert [event.data for event in events if isinstance(event, h2.events.DataReceived)] == bodies


def test_a_body_larger_than_a_frame_is_split() -> None:
    """A body that no single frame of the server's holds arrives whole."""
    peer = Peer(QUESTION)
    body = grpc_message(bytes(range(200)) * 200)
    peer.client.ask(body, 0.0)

    pieces = [event.data for event in peer.deliver() if isinstance(event, h2.events.DataReceived)]

    assert b"".join(pieces) == body
    assert len(pieces) == 3


def test_the_connections_window_is_respected() -> None:
    """No more is sent than the server's window admits, and as much again when the server has read it."""
    peer = Peer(QUESTION)
    asked = 0
    while peer.client.has_room(1000, len(BODY)):
        peer.client.ask(BODY, 0.0)
        asked += 1

    peer.deliver()

    assert asked == 65_535 // len(BODY)
    peer.server.acknowledge_received_data(asked * len(BODY), 1)
    peer.deliver()
    assert peer.client.has_room(1000, len(BODY))


def test_the_servers_limit_of_streams_is_respected() -> None:
    """With as many requests in flight as the server's SETTINGS allow there is no room for one more."""
    peer = Peer(QUESTION)
    peer.server.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    peer.deliver()
    assert peer.client.has_room(25, len(BODY))

    peer.client.ask(BODY, 0.0)

    assert not peer.client.has_room(25, len(BODY))


def test_a_reset_stream_is_an_error() -> None:
    """A stream that the server resets is an error with the code it gave."""
    peer = Peer(QUESTION)
    peer.client.ask(BODY, 7.0)
    peer.deliver()
    peer.server.reset_stream(1, error_code=8)

    (answer,) = peer.client.receive(peer.server.data_to_send())

    assert answer.asked_at == 7.0
    assert "error code 8" in answer.problem


def test_messages_are_those_of_the_independent_encoder() -> None:
    """A message made by replacing a placeholder is, byte for byte, what envoy-data-plane encodes."""
    tokens = ["a" * 700, "b" * 700]
    customers = [CUSTOMER.format(number) for number in (1, 22)]

    assert list(checks(tokens)) == [grpc_message(bytes(check_request(token))) for token in tokens]
    assert list(limits("free", iter(customers))) == [
        grpc_message(bytes(limit_request("free", customer))) for customer in customers
    ]


def test_nothing_started_outlives_a_failure(tmp_path: Path) -> None:
    """A process is ended and waited for when the block around it fails."""
    with contextlib.suppress(KeyboardInterrupt), running(["sleep", "600"], CORE, tmp_path / "log") as process:
        assert process.popen.poll() is None
        raise KeyboardInterrupt

    assert process.popen.returncode is not None


def test_percentiles_are_nearest_ranks() -> None:
    """The p-th percentile is the least latency that p percent of the answers did not exceed."""
    result = Result(200, 0, "", 1.0, tuple(float(number) for number in range(1, 201)))

    assert [result.percentile(percent) for percent in (0, 50, 99, 100)] == [1.0, 100.0, 198.0, 200.0]


CASE = Case("Check", QUESTION, lambda: (), lambda _: None, target=0.20)
UNIT = Unit(150e-6, 170e-6)


def row(transport: str, cpu: float, p99: float) -> Row:
    return Row("Check", transport, 1000, 2000.0, {"server": cpu}, 0.001, p99, 60.0)


@pytest.mark.parametrize(
    ("transport", "cpu", "p99", "expected"),
    [
        ("native", 32e-6, 0.003, "met"),
        ("native", 40e-6, 0.003, "missed: ratio +0.05"),
        ("native", 40e-6, 0.004, "missed: ratio +0.05, p99 +1.00"),
        ("grpcio", 320e-6, 0.009, ""),
    ],
)
def test_the_table_says_by_how_much_a_target_is_missed(transport: str, cpu: float, p99: float, expected: str) -> None:
    """Targets are the native transport's; a ratio is taken to the mean of the two measurements of the unit."""
    assert verdict(CASE, row(transport, cpu, p99), UNIT) == expected


@pytest.mark.parametrize(("last", "noisy"), [(170e-6, False), (190e-6, True)])
def test_a_noisy_run_says_so(last: float, noisy: bool) -> None:  # noqa: FBT001 - a parameter of the table above
    """Where the unit moved by more than a tenth within a run, the table says that its ratios are no better."""
    text = table([CASE], [row("native", 32e-6, 0.001)], Unit(160e-6, last))

    assert ("The unit moved by" in text) is noisy


def test_a_failed_row_shows_its_problem_and_no_figure() -> None:
    """A row whose answers were wrong shows why, and nothing that could be taken for a measurement."""
    text = table([CASE], [row("native", 32e-6, 0.001), Failure("Check", "grpcio", "3 of 9 were wrong")], UNIT)

    _, _, good, bad, *below = text.splitlines()
    assert "0.20" in good
    assert not {"0.20", "1.00"} & set(bad.split())
    assert below[-2:] == ["Check, grpcio:", "3 of 9 were wrong"]


@pytest.fixture(scope="module")
def material() -> Material:
    return Material(60)


def test_forged_tokens_differ_and_only_their_signature_is_wrong(material: Material) -> None:
    """Forged tokens are all different, and what refuses them is their signature."""
    tokens = list(itertools.islice(forged(material.hot[0]), 50))

    assert len(set(tokens)) == 50
    claims = jwt.decode(material.hot[0], material.public_key, ["RS256"], audience=AUDIENCE)
    for token in tokens:
        assert jwt.decode(token, options={"verify_signature": False}) == claims
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(token, material.public_key, ["RS256"], audience=AUDIENCE)


def test_overdue_tokens_differ_and_are_over(material: Material) -> None:
    """Overdue tokens are all different, of one length, and expired before anybody asks about their signature."""
    tokens = list(itertools.islice(overdue(material.hot[0]), 50))

    assert len(set(tokens)) == 50
    assert len({len(token) for token in tokens}) == 1
    for token in tokens:
        with pytest.raises(jwt.ExpiredSignatureError):
            jwt.decode(token, options={"verify_signature": False, "verify_exp": True})


def test_made_up_keys_are_told_from_misspelt_ones_by_their_checksum() -> None:
    """Unknown keys have the product's form and checksum, malformed ones the form alone."""
    real = apikeys.minted(os.urandom)
    secret = real.text.removeprefix(f"gxk_{real.id}_")[: api_keys.SECRET]
    assert api_keys.written(real.id, secret) == real.text

    for unknown, malformed in itertools.islice(zip(api_keys.unknown(), api_keys.malformed(), strict=True), 50):
        assert apikeys.presented(unknown.encode(), b"k" * 32) is not None
        assert apikeys.presented(malformed.encode(), b"k" * 32) is None


@pytest.mark.parametrize("variant", ["", "a route", "200 routes", "credentials"])
def test_each_row_of_check_gets_its_right_answers(
    variant: str, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar of a variant gives every Check row the answers that its load looks for."""
    monkeypatch.setattr(credentials, "MANY", 200)
    rows = [each for each in cases(material) if each.name.startswith("Check") and each.variant == variant]
    with contextlib.ExitStack() as stack:
        _, url = stack.enter_context(servers.store("valkey", tmp_path, CORE))
        running = servers.sidecar("native", url, material.public_key, tmp_path, CORE, variant=variant)
        address = stack.enter_context(running).address
        for row in rows:
            row.lay(url)
            row.check(address)
            assert right(saturate(address, row.question, itertools.islice(row.bodies(), 40), 60)).answered == 40

    assert rows


def test_good_tokens_are_measured_while_bad_ones_are_sent(material: Material) -> None:
    """Good tokens at the fixed rate, and a flood meanwhile: every answer to both is right."""
    good, bad = flooded("native", "forged tokens", material, seconds=0.2)

    assert (good.answered, good.errors) == (200, 0)
    assert bad is not None
    assert bad.answered > bad.errors == 0


def test_a_comparison_that_tells_is_found() -> None:
    """The times of a comparison that ends at the first difference are apart, those of one that does not are not."""
    right_one = bytes(range(200))

    def leaks(guess: bytes) -> bool:
        return all(one == other for one, other in zip(guess, right_one, strict=True))

    def guessing(right: int) -> Callable[[], timing.Try]:
        guess = right_one[:right] + bytes(200 - right)
        return lambda: lambda: leaks(guess)

    classes = {**dict.fromkeys(timing.NOTHING, guessing(1)), "some": guessing(150)}
    times = timing.measured(classes, 200, random.Random(1))

    assert timing.apart(times["some"], [times[name] for name in timing.NOTHING]) > timing.MOST_T
    assert timing.apart(times[timing.NOTHING[0]], [times[name] for name in timing.NOTHING]) == 0


def test_guesses_of_keys_are_timed() -> None:
    """Three experiments are reported, whatever so few samples say."""
    said = CliRunner().invoke(timing.main, ["--samples", "20"])

    assert said.exit_code in (0, 1)
    assert said.output.count("Guesses ") == 3
    assert said.output.count("| nothing right |") == 3
