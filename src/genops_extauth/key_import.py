"""Keys that exist elsewhere, in plain text: which of them may be believed, and what is kept of them.

A key is refused that could be guessed, or that several have: who shows it has not said who it is. (The guide's own
example stores ``key:premium-tier`` for each customer of a tier.)
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genops_extauth.apikeys import Presented, presented
from genops_extauth.key_lifecycle import Record, Secret
from genops_extauth.key_records import RecordError, attributes_of, name_of, time_of, words_of
from genops_extauth.reserved_headers import ATTRIBUTES
from genops_extauth.sources import MAX_SECRET_BYTES, SourceError, read
from genops_extauth.strict_json import MalformedError, parse_object

MAX_BYTES = 16 * 1024 * 1024
"""Of all that is imported at once."""

METADATA = "key-metadata.json"

_MAX_ITEMS = 1_000_000

_SHORTEST = 20
"""Characters. 20 of base32, the poorest alphabet that generators use, are 100 bits."""

_FEWEST = 8
"""Different characters. Of 20 random hexadecimal digits fewer are different once in 1,800 times, of 32 never."""

_OTHERS = frozenset({"key", "name", "tier", "scopes", "roles", "created", "not_before", "expires"})


@dataclass(frozen=True, slots=True)
class Offered:
    """A key as it was found: where, and what is said of it."""

    place: str
    key: str = field(repr=False)
    said: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Refused:
    """A key that is not imported, and why. The reason does not hold the key."""

    place: str
    reason: str


def from_lines(data: bytes) -> Iterator[Offered | Refused]:
    """Read JSON lines, each with a ``key`` and what is said of it. Raises `RecordError`."""
    if len(data) > MAX_BYTES:
        raise RecordError(f"at most {MAX_BYTES} bytes are imported at once: send them in parts")
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            said = parse_object(line, _MAX_ITEMS)
        except MalformedError as error:
            yield Refused(place, str(error))
            continue
        key = said.pop("key", None)
        yield Offered(place, key, said) if isinstance(key, str) else Refused(place, "has no key")


def from_folder(folder: Path) -> Iterator[Offered | Refused]:
    """Read a Secret as the guide has it: each file named as its customer, and what is said of all in one more.

    Raises `RecordError` and `sources.SourceError`.
    """
    try:
        said = parse_object(read(folder / METADATA, MAX_BYTES), _MAX_ITEMS)
    except MalformedError as error:
        raise RecordError(f"{METADATA}: {error}") from None
    names = sorted(each.name for each in folder.iterdir() if not each.name.startswith(".") and each.name != METADATA)
    for customer in names:
        told = said.get(customer)
        if not isinstance(told, dict):
            yield Refused(customer, f"{METADATA} says nothing of it")
            continue
        try:
            key = read(folder / customer, MAX_SECRET_BYTES).decode().strip()
        except (SourceError, UnicodeDecodeError):
            yield Refused(customer, "its key cannot be read, or is no text")
            continue
        yield Offered(customer, key, {"customer_id": customer, **told})
    yield from (Refused(customer, "there is no file with its key") for customer in sorted(said.keys() - set(names)))


def accepted(
    offers: Iterable[Offered | Refused],
    digest_key: bytes,
    now: int,
    check: Callable[[Mapping[str, str]], str],
) -> Iterator[Record | Refused]:
    """Make a record of each key that may be believed. `check` says what is wrong with its attributes, if anything."""
    found = list(offers)
    shared = Counter(each.key for each in found if isinstance(each, Offered))
    for each in found:
        if isinstance(each, Refused):
            yield each
        elif shared[each.key] > 1:
            yield Refused(each.place, f"{shared[each.key]} have the same key: issue each one of its own")
        else:
            yield _record(each, digest_key, now, check)


def _record(offer: Offered, digest_key: bytes, now: int, check: Callable[[Mapping[str, str]], str]) -> Record | Refused:
    key = presented(offer.key.encode(errors="surrogatepass"), digest_key)
    if key is None:
        return Refused(offer.place, "is no key: 16 to 512 visible ASCII characters, or one of ours without a slip")
    try:
        record = _of(offer.said, offer.place, key, now)
    except RecordError as error:
        return Refused(offer.place, str(error))
    problem = _guessable(offer.key, list(record.attributes.values())) or check(record.attributes)
    if not problem and record.expires is not None and record.expires <= now:
        problem = "has expired: issue another one"
    return Refused(offer.place, problem) if problem else record


def _of(said: Mapping[str, object], place: str, key: Presented, now: int) -> Record:
    return Record(
        id=key.id,
        name=name_of(said.get("name", place)),
        secrets=(Secret(key.digest, now),),
        created=_time(said, "created") or now,
        attributes=_attributes(said),
        scopes=words_of(said.get("scopes", []), "scopes"),
        roles=words_of(said.get("roles", []), "roles"),
        not_before=_time(said, "not_before"),
        expires=_time(said, "expires"),
    )


def _attributes(said: Mapping[str, object]) -> dict[str, str]:
    given = {name: value for name, value in said.items() if name in ATTRIBUTES}
    if "tier" in said:
        given["customer_tier"] = said["tier"]
    if unknown := said.keys() - _OTHERS - set(ATTRIBUTES):
        raise RecordError(
            f"{min(unknown)[:64]!r} says nothing here; there are {', '.join((*ATTRIBUTES, *sorted(_OTHERS)))}"
        )
    return attributes_of(given)


def _time(said: Mapping[str, object], name: str) -> int | None:
    return time_of(said[name], name) if name in said else None


def _guessable(key: str, known: Sequence[str]) -> str:
    """Why a key could be guessed; empty where it could not."""
    if len(key) < _SHORTEST:
        return f"could be guessed: it has {len(key)} characters, and {_SHORTEST} are the least; issue another one"
    if len(set(key)) < _FEWEST:
        return f"could be guessed: it has {len(set(key))} different characters, and {_FEWEST} are the least"
    part = next((word for word in known if len(word) > 2 and word.lower() in key.lower()), None)  # noqa: PLR2004 - by chance
    return "" if part is None else f"could be guessed: {part!r} is in it; issue another one"
