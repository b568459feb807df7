"""Whether a credential that is shown somewhere would be found: a search that finds nothing proves nothing by itself."""

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import api_keys
import gateway
import leaks
import sidecar
from sidecar import Sidecar, settings

TOKEN = sidecar.token(customer_id="planted")
KEY = api_keys.issued(b"d" * 32).key.decode()


@pytest.fixture(autouse=True)
def _nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "FOUND", [])


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "its secret": lambda text: text[-43:],
    "the beginning of its secret": lambda text: text[-86:-40] if text == TOKEN else text[:60],
    "in base64": lambda text: base64.b64encode(text.encode()).decode(),
    "in base64url, within something": lambda text: base64.urlsafe_b64encode(f"b:{text}".encode()).decode(),
    "percent-encoded": lambda text: "".join(f"%{ord(character):02X}" for character in text),
}


@pytest.mark.parametrize("credential", [TOKEN, KEY], ids=["token", "API key"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["log", "errors"])
def test_what_is_written_is_found(tmp_path: Path, credential: str, form: str, place: str) -> None:
    """A credential in the log or on standard error fails the end of a sidecar, whole or its secret, however encoded."""
    stopped = Sidecar(tmp_path, settings())
    line = json.dumps({"event": "check", "path": f"/v1/{FORMS[form](credential)}/x"})
    (tmp_path / "said" / place).write_text(f"{line}\n")
    with pytest.raises(AssertionError) as raised:
        stopped.stop()
    assert place in str(raised.value)
    assert credential[-20:] not in str(raised.value)


@pytest.mark.parametrize("place", ["/metrics", "/stats"])
def test_what_is_shown_is_found(tmp_path: Path, place: str) -> None:
    """A credential on a page of a sidecar's, that of metrics or that of debugging, fails its end."""
    running = Sidecar(tmp_path, settings())
    with serving(f'genops_check_total{{customer="{TOKEN}"}} 1\n', at=place) as port:
        running.http = running.debug = f"127.0.0.1:{port}"
        with pytest.raises(AssertionError, match=place):
            running.stop()


def test_what_is_answered_is_found() -> None:
    """A credential in the answer to a client fails the test that asked, but where a service shows it on purpose."""
    with serving(json.dumps({"error": TOKEN})) as port, pytest.raises(AssertionError, match="body"):
        gateway.Gateway(port, 0).get()
    with gateway.upstream() as echo:
        leaks.FOUND.clear()
        assert ["authorization", f"Bearer {TOKEN}"] in gateway.Gateway(echo.port, 0).get(token=TOKEN).json["headers"]


def test_what_was_found_elsewhere_is_not_forgotten(tmp_path: Path) -> None:
    """A finding in a thread, whose error nobody sees, fails the next search too."""
    with pytest.raises(AssertionError):
        leaks.search(answer=TOKEN)
    with pytest.raises(AssertionError, match="answer"):
        Sidecar(tmp_path, settings()).stop()


def test_what_is_sent_is_planted() -> None:
    """Tokens and API keys in a request are searched for from then on, whoever made them."""
    token, key = TOKEN[:-24] + "0123456789abcdefghijklmn", KEY[:-24] + "0123456789abcdefghijklmn"
    leaks.search(log=token[-24:] + key[-24:])
    leaks.plant_all(f"\x12\x07Bearer {token}\x1a{key}".encode())
    for credential in (token, key):
        with pytest.raises(AssertionError):
            leaks.search(log=credential)
        leaks.FOUND.clear()


def test_what_is_no_secret_is_not_found() -> None:
    """What says who asks may be seen: the claims of a token, the id of a key, ids of decisions."""
    leaks.search(log=f"{TOKEN.rpartition('.')[0]} {KEY[:21]} 0123456789abcdef-00000000001 /v1/chat/completions")


@contextlib.contextmanager
def serving(text: str, at: str = "/v1/models") -> Iterator[int]:
    """A server that answers with a text at one place, and with nothing elsewhere."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text.encode() if self.path == at else b""
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
