"""A real OpenID provider, Canaille, as a process; and a person with a browser who signs in there.

Run as a program this is the provider: two clients, each its own audience, and one user. Each line on its standard
input is a rotation: a new key signs, the one before stays published, and older ones are withdrawn.
"""

import base64
import contextlib
import hashlib
import http.cookiejar
import json
import logging
import secrets
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from http.client import HTTPMessage
from typing import IO, Any

CLIENTS = ("genops", "elsewhere")
USER, PASSWORD = "acme", "correct horse battery staple"
_CALLBACK = "http://127.0.0.1:1/callback"
"""Where the browser is sent in the end. Nobody listens: the code is read from the redirect."""


class _Form(HTMLParser):
    """The fields of a page's form, with their values."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "input" and said.get("name"):
            self.fields[str(said["name"])] = said.get("value") or ""


class _Landed(Exception):  # noqa: N818 - not an error: the browser is where it should be
    def __init__(self, url: str) -> None:
        self.answer = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))


class _UntilCallback(urllib.request.HTTPRedirectHandler):
    def redirect_request(  # noqa: PLR0917 - as urllib calls it
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if newurl.startswith(_CALLBACK):
            raise _Landed(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Provider:
    """A provider that runs, as its clients and its user see it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.issuer = self._answer()
        self.metadata = self._json(f"{self.issuer}/.well-known/openid-configuration")

    def rotate(self) -> None:
        """Sign with a new key from now on; the one before it stays published, older ones do not."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._answer() == "rotated"

    def sign_in(self, client: str) -> str:
        """The ID token of the authorization code flow (OpenID Connect Core 3.1), with PKCE (RFC 7636)."""
        verifier, state, nonce = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {"response_type": "code", "client_id": client, "redirect_uri": _CALLBACK, "scope": "openid profile"}
        asked |= {"state": state, "nonce": nonce, "code_challenge": challenge, "code_challenge_method": "S256"}
        answer = self._authorized(f"{self.metadata['authorization_endpoint']}?{urllib.parse.urlencode(asked)}")
        assert (answer["state"], answer["iss"]) == (state, self.issuer)
        redeemed = {"grant_type": "authorization_code", "code": answer["code"], "redirect_uri": _CALLBACK}
        return self._token(client, redeemed | {"code_verifier": verifier})

    def _authorized(self, url: str) -> dict[str, str]:
        """Follow the provider through its pages, filling in who we are, until it sends us back."""
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        browser = urllib.request.build_opener(cookies, _UntilCallback)
        known, data = {"login": USER, "password": PASSWORD}, None
        try:
            for _ in range(4):
                with browser.open(url, data, timeout=20) as page:
                    fields = _Form(page.read().decode()).fields
                    url = page.url
                data = urllib.parse.urlencode(fields | {name: known[name] for name in fields.keys() & known}).encode()
        except _Landed as landed:
            return landed.answer
        raise AssertionError(f"the provider did not send the browser back from {url}")

    def _token(self, client: str, form: dict[str, str]) -> str:
        request = urllib.request.Request(self.metadata["token_endpoint"], urllib.parse.urlencode(form).encode())
        basic = base64.b64encode(f"{client}:{_secret(client)}".encode()).decode()
        request.add_header("Authorization", f"Basic {basic}")
        return self._json(request)["id_token"]

    def _json(self, request: str | urllib.request.Request) -> dict[str, str]:
        with urllib.request.urlopen(request, timeout=20) as response:
            said: dict[str, str] = json.load(response)
        return said

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the provider ended"
        return line


def _secret(client: str) -> str:
    return f"the secret of {client}"


@contextlib.contextmanager
def identity_provider() -> Iterator[Provider]:
    """Run a provider on a free port, for as long as the context."""
    command = (sys.executable, __file__)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Provider(process)
        finally:
            process.kill()


def _serve() -> None:
    """Run the provider. Its packages are imported here: who only signs in does without them."""
    from canaille import create_app  # noqa: PLC0415
    from werkzeug.serving import make_server  # noqa: PLC0415

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # The port comes before the application, for the issuer has it in its name.
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    app = create_app(
        {
            "SECRET_KEY": secrets.token_hex(),
            "SERVER_NAME": f"127.0.0.1:{port}",
            "PREFERRED_URL_SCHEME": "http",
            "CANAILLE": {"DATABASE": "memory", "JAVASCRIPT": False},
            "CANAILLE_OIDC": {"ACTIVE_JWKS": [_signing_key()], "INACTIVE_JWKS": []},
        }
    )
    with app.app_context():
        _register()
    server = make_server("127.0.0.1", port, app, threaded=True, fd=listener.fileno())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _say(f"http://127.0.0.1:{port}")
    keys = app.config["CANAILLE_OIDC"]
    for _ in sys.stdin:
        keys["INACTIVE_JWKS"], keys["ACTIVE_JWKS"] = keys["ACTIVE_JWKS"], [_signing_key()]
        _say("rotated")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _signing_key() -> dict[str, Any]:
    from joserfc.jwk import RSAKey  # noqa: PLC0415

    return RSAKey.generate_key(2048, auto_kid=True).as_dict(private=True)


def _register() -> None:
    from canaille.app import models  # noqa: PLC0415
    from canaille.backends import Backend  # noqa: PLC0415

    for name in CLIENTS:
        client = models.Client(
            client_id=name,
            client_secret=_secret(name),
            client_uri="http://127.0.0.1/",  # a domain that it trusts: no page that asks for consent
            redirect_uris=[_CALLBACK],
            grant_types=["authorization_code"],
            response_types=["code"],
            scope=["openid", "profile"],
            token_endpoint_auth_method="client_secret_basic",
            id_token_signed_response_alg="RS256",
        )
        Backend.instance.save(client)
        client.audience = [client]
        Backend.instance.save(client)
    Backend.instance.save(models.User(user_name=USER, password=PASSWORD, family_name=USER, formatted_name=USER))


if __name__ == "__main__":
    _serve()
