"""Edits that keep the form of an input: what a byte changed at random would mostly break, a parser sees here whole.

`edited` is for the fuzzer and for Hypothesis alike: all chance comes from the `Random` that it is given.
"""

import base64
import json
from collections.abc import Callable, Mapping
from random import Random

from google.protobuf.message import DecodeError

from fuzz.seeds import BODIES, METHODS, NAMES, PATHS, PRINCIPALS, SEEDS, VALUES, WORDS, listed
from genops_extauth._pb import ext_authz_pb2 as authz

_Edit = Callable[[authz.CheckRequest, Random], None]


def edited(target: str, data: bytes, random: Random) -> bytes:
    """An input of a target with one to three edits."""
    for _ in range(random.randint(1, 3)):
        data = _EDITORS[target](data, random)
    return data


def _spoilt(data: bytes, random: Random) -> bytes:
    """Bytes with some replaced, left out, doubled, or a word put in."""
    start = random.randint(0, len(data))
    end = min(len(data), start + random.choice((0, 0, 1, 1, 8)))
    put = random.choice((b"", data[start:end] * 2, bytes((random.randint(0, 255),)), random.choice(WORDS)))
    return data[:start] + put + data[end:]


def _maybe_spoilt(word: bytes, random: Random) -> bytes:
    return word if random.randint(0, 3) else _spoilt(word, random)


def _set_header(message: authz.CheckRequest, random: Random) -> None:
    name, value = random.choice(NAMES), _maybe_spoilt(random.choice(VALUES), random)
    message.attributes.request.http.headers[name] = value


def _spoil_header(message: authz.CheckRequest, random: Random) -> None:
    headers = message.attributes.request.http.headers
    if headers:
        name = random.choice(sorted(headers))
        headers[name] = _spoilt(headers[name], random)


def _rename_header(message: authz.CheckRequest, random: Random) -> None:
    headers = message.attributes.request.http.headers
    if headers:
        headers[random.choice(NAMES)] = headers.pop(random.choice(sorted(headers)))


def _list_header(message: authz.CheckRequest, random: Random) -> None:
    """Add to the other encoding, which then has it twice, or differs from the first."""
    name, value = random.choice(NAMES).encode(), _maybe_spoilt(random.choice(VALUES), random)
    added = message.attributes.request.http.header_map.headers.add(key=name)
    setattr(added, random.choice(("value", "raw_value")), value)


def _list_all(message: authz.CheckRequest, random: Random) -> None:
    headers = dict(message.attributes.request.http.headers)
    listed(message)
    if random.randint(0, 1):
        message.attributes.request.http.headers.MergeFrom(authz.AttributeContext.HttpRequest(headers=headers).headers)


def _set_line(message: authz.CheckRequest, random: Random) -> None:
    http = message.attributes.request.http
    field, words = random.choice((("method", METHODS), ("path", PATHS), ("body", BODIES), ("raw_body", BODIES)))
    setattr(http, field, _maybe_spoilt(random.choice(words), random))


def _set_peer(message: authz.CheckRequest, random: Random) -> None:
    source = message.attributes.source
    source.principal = _maybe_spoilt(random.choice(PRINCIPALS), random)
    if random.randint(0, 1):
        source.certificate = _maybe_spoilt(random.choice(WORDS), random)


def _set_context(message: authz.CheckRequest, random: Random) -> None:
    message.attributes.context_extensions["tenant"] = random.choice(("a", "b", ""))


_EDITS: tuple[_Edit, ...] = (
    *(_set_header, _spoil_header, _spoil_header, _rename_header, _list_header, _list_all),
    *(_set_line, _set_line, _set_peer, _set_context),
)


def _edited_check(data: bytes, random: Random) -> bytes:
    kind = random.randint(0, 9)
    if kind == 0:
        return _spoilt(data, random)
    if kind == 1:  # a field that stands twice: the last one counts, and messages are merged
        return data + random.choice(SEEDS["check"])
    if kind == 2:  # noqa: PLR2004 - as many kinds as there are
        return data + _unknown(random)
    try:
        message = authz.CheckRequest.FromString(data)
    except DecodeError:
        return random.choice(SEEDS["check"])
    random.choice(_EDITS)(message, random)
    return message.SerializeToString(deterministic=True)


def _unknown(random: Random) -> bytes:
    """A field of CheckRequest's that nobody knows yet: its number from 2 to 15, of any type."""
    number, kind = random.randint(2, 15), random.choice((0, 1, 2, 5))
    value = {0: b"\x07", 1: bytes(8), 2: b"\x03abc", 5: bytes(4)}[kind]
    return bytes((number << 3 | kind,)) + value


def _edited_token(data: bytes, random: Random) -> bytes:
    segments = data.split(b".")
    place = random.randrange(len(segments))
    match random.randint(0, 4):
        case 0:
            return _spoilt(data, random)
        case 1:  # a segment of another token
            segments[place] = random.choice(random.choice(SEEDS["token"]).split(b"."))
        case 2:  # what it says, in another spelling
            segments[place] = segments[place] + random.choice((b"=", b"A", b"\n"))
        case _:
            segments[place] = _edited_segment(segments[place], random)
    return b".".join(segments)


def _edited_segment(segment: bytes, random: Random) -> bytes:
    try:
        text = base64.urlsafe_b64decode(segment + b"==")
    except ValueError:
        return _spoilt(segment, random)
    return base64.urlsafe_b64encode(_edited_claims(text, random)).rstrip(b"=")


_MEMBERS = ("alg", "kid", "typ", "crit", "b64", "zip", "cty", "iss", "aud", "sub", "exp", "nbf", "iat", "jti", "scope")
_SAID: tuple[object, ...] = (
    *(None, True, 0, -1, 1e308, 2**63, "", "none", "HS256", "EdDSA", "k1", "acme", "a,b", "\ud800", "\u202e"),
    *("x" * 300, [], ["genops"], ["genops", 1], {}, {"a": {"b": {}}}, "globex", "premium", "gold", ["b64"], ["exp"]),
)


def _edited_claims(data: bytes, random: Random) -> bytes:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return _spoilt(data, random)
    kind = random.randint(0, 3)
    if not isinstance(said, dict) or kind == 0:
        return _spoilt(data, random)
    member = random.choice((*_MEMBERS, *sorted(said)))
    if kind == 1:  # a member that stands twice
        return data[:-1] + b"," + json.dumps(member).encode() + b":" + json.dumps(random.choice(_SAID)).encode() + b"}"
    return json.dumps(said | {member: random.choice(_SAID)}).encode()


_EDITORS: Mapping[str, Callable[[bytes, Random], bytes]] = {
    "check": _edited_check,
    "token": _edited_token,
    "claims": _edited_claims,
}
