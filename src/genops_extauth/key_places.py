"""Where a request holds its API key: in a header of its own, as a bearer token, or, if configured, in the query."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from genops_extauth.apikeys import PREFIX
from genops_extauth.bearer import bearer_token
from genops_extauth.model import Denied, Request
from genops_extauth.reasons import Reason

_PREFIX = PREFIX.encode()
_ENCODED = re.compile(r"(?:[!-$&-~]|%[0-9A-Fa-f]{2})*")  # RFC 3986, 2.1: a percent sign is followed by two digits


@dataclass(frozen=True, slots=True)
class Places:
    """Where keys are looked for. `header` is in lower case; `query` is the name of a parameter, empty for none.

    As bearer tokens only keys of our own form are ours: others cannot be told from the tokens of somebody else.
    """

    header: str = "x-api-key"
    bearer: bool = True
    query: str = ""

    def presented(self, request: Request) -> bool:
        """Whether the request holds a key, good or bad."""
        return (
            self.header in request.headers
            or self._bears(request)
            or bool(self.query and request.query and self._parameters(request.query))
        )

    def key(self, request: Request) -> bytes | Denied | None:
        """The key of a request, None where it holds none.

        Two keys are refused, never "first wins", two that are equal as well: whoever reads after us could take the
        other (CVE-2020-25017).
        """
        found = request.headers.get(self.header)
        repeated = found is not None and self.header in request.repeated
        if self.bearer and "authorization" in request.headers and self._bears(request):
            repeated |= found is not None or "authorization" in request.repeated
            found = bearer_token(request)
        if self.query and request.query and (parameters := self._parameters(request.query)):
            repeated |= found is not None or len(parameters) > 1
            found = parameters[0]
        if repeated:
            return Denied(Reason.CREDENTIALS_AMBIGUOUS)
        return found

    def _bears(self, request: Request) -> bool:
        token = bearer_token(request) if self.bearer else None
        return token is not None and token.startswith(_PREFIX)

    def _parameters(self, query: str) -> list[bytes]:
        """The values of our parameter; one that cannot be read, or whose name is spelt otherwise, is empty.

        Its name has one spelling, for gateways remove parameters by that: ``api%5Fkey`` would arrive upstream.
        """
        return list(_named(query, self.query))


def _named(query: str, name: str) -> Iterator[bytes]:
    wanted = name.encode()
    for part in query.split("&"):
        spelt, _, value = part.partition("=")
        if spelt == name:
            yield unquote_to_bytes(value) if _ENCODED.fullmatch(value) else b""
        elif unquote_to_bytes(spelt) == wanted:
            yield b""
