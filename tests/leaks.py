"""Credentials that tests sent, and where they were seen again: each one, in everything that is searched.

Whatever a test sends through `sidecar` or `gateway` is looked through for credentials, so that none has to be
remembered; `plant` adds those that have no form of their own.
"""

import base64
import re
from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import quote

_Text = TypeVar("_Text", bound=str | bytes)

# A JWT of three segments, and no more: what is damaged otherwise has claims, which are no secret, in their place.
_CREDENTIAL = re.compile(
    rb"(?<!\.)eyJ[\w-]++\.eyJ[\w-]++\.[\w-]{16,}+(?!\.)|gxk_[0-9a-z]{16}_[0-9A-Za-z]{49}", re.ASCII
)
_LOOKED_AT = 64 * 1024  # bytes: a request has no more headers; its body may have megabytes
_PIECE = 16  # characters: of random ones nobody writes so many by chance
_RUN = re.compile(rf"[\w+/%.~=-]{{{_PIECE},}}", re.ASCII)  # what credentials, and their encodings, are made of

_pieces: set[str] = set()
_planted: set[str] = set()
FOUND: list[str] = []
"""Where something was seen that must not be, since the tests began; also where the test's thread went on."""


def plant(credential: _Text) -> _Text:
    """Remember a credential that a test is about to send."""
    text = credential if isinstance(credential, str) else credential.decode("latin-1")
    if text not in _planted:
        _planted.add(text)
        _pieces.update(_pieces_of(text))
    return credential


def plant_all(sent: bytes) -> None:
    """Remember every token and API key in what a test is about to send."""
    for found in _CREDENTIAL.findall(sent, 0, _LOOKED_AT):
        plant(found)


def search(**places: str) -> None:
    """Look for every credential so far. Raises AssertionError, which names the place and shows nothing of it."""
    FOUND.extend(f"a credential in {place}" for place, text in places.items() if _shows_one(text))
    if FOUND:
        raise AssertionError("; ".join(FOUND))


def _shows_one(text: str) -> bool:
    runs = _RUN.findall(text)
    return any(run[at : at + _PIECE] in _pieces for run in runs for at in range(len(run) - _PIECE + 1))


def _secret(credential: str) -> str:
    """What only its owner knows: a token's signature, what follows the id of an API key, all of anything else."""
    if credential.startswith("gxk_"):
        return credential.rpartition("_")[2]
    return credential.rpartition(".")[2] if credential.count(".") == 2 else credential


def _pieces_of(credential: str) -> Iterator[str]:
    """Pieces by which it is known, whole or in part, as it is and in other encodings."""
    secret = _secret(credential)
    for form in (secret, quote(secret, safe="")):
        yield from (form[start : start + _PIECE] for start in range(0, len(form) - _PIECE + 1, _PIECE))
    if len(secret) < _PIECE:
        return
    yield "".join(f"%{ord(character):02X}" for character in secret)[:_PIECE]
    for before in range(3):  # where in a group of base64 it begins
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(before) + secret.encode("latin-1"))[4:][:_PIECE].decode()
