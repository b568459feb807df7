r"""``x-forwarded-client-cert``: what the proxy before ours says of its client's certificate.

Envoy writes elements, one for each proxy, parted by ``,``; in each, pairs ``Key=Value`` parted by ``;``. A value with
one of ``,;=`` stands in double quotes, and a double quote in it is written ``\"``.
(https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/headers#x-forwarded-client-cert)

Here only what has one reading is read:

- One element. Of several, the first was written by whom the last proxy believed (APPEND_FORWARD); SANITIZE_SET makes
  one.
- No two backslashes in a row. Envoy escapes quotes and nothing else, so that a subject with the characters ``\"`` would
  end its value for a reader who takes ``\\`` for an escape, and what follows would be pairs of the client's making.
- Each key once, but ``By``, ``URI`` and ``DNS``, which are lists.
"""

import re
from typing import NamedTuple

_KEYS = ("By", "Hash", "Cert", "Chain", "Subject", "URI", "DNS")
_LISTS = ("By", "URI", "DNS")
_QUOTED = r'"((?:[^"\\]|\\(?!["\\])|\\")*+)"'
_BARE = r'([^",;=\\\s]*)'
_PAIR = re.compile(rf"({'|'.join(_KEYS)})=(?:{_QUOTED}|{_BARE})", re.ASCII)
_VISIBLE = re.compile(rb"[ -~]*")


class XfccError(ValueError):
    """Raised when the header has no reading, or more than one. The message never holds any of it."""


class Element(NamedTuple):
    """What one proxy says of its client's certificate. `certificate` is in PEM and URL encoding, if it is passed on."""

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    certificate: str = ""


def parse(header: bytes) -> Element:
    """Read a header of one element. Raises `XfccError`."""
    if not _VISIBLE.fullmatch(header):
        raise XfccError("not visible ASCII")
    found: dict[str, list[str]] = {}
    for key, value in _pairs(header.decode("ascii")):
        if key in found and key not in _LISTS:
            raise XfccError(f"{key} twice")
        found.setdefault(key, []).append(value)
    return Element(_some(found.get("URI")), _some(found.get("DNS")), "".join(found.get("Cert", ())))


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs, at = [], 0
    while True:
        pair = _PAIR.match(text, at)
        if pair is None:
            raise XfccError("not pairs of known keys and their values")
        pairs.append((pair[1], pair[3] if pair[2] is None else pair[2].replace('\\"', '"')))
        at = pair.end()
        if at == len(text):
            return pairs
        if text[at] == ",":
            raise XfccError("more than one element")
        if text[at] != ";":
            raise XfccError("a value without quotes that needs them")
        at += 1


def _some(values: list[str] | None) -> tuple[str, ...]:
    """The values that are there: Envoy writes the key also where a certificate has no such name."""
    return tuple(value for value in values or () if value)
