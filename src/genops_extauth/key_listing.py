"""Records of API keys as people and programs are shown them: never a digest, still less a key."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from genops_extauth.key_lifecycle import Record, state
from genops_extauth.key_records import time_text
from genops_extauth.terminal import console, printable

_COLUMNS = ("id", "name", "state", "customer_id", "customer_tier", "expires", "last_used")


def document(record: Record, now: int, used: Mapping[str, int]) -> dict[str, object]:
    """All that may be shown of a key: JSON-ready. What is not known, or never ends, is null."""
    return {
        "id": record.id,
        "name": record.name,
        "state": state(record, now),
        "attributes": dict(record.attributes),
        "scopes": sorted(record.scopes),
        "roles": sorted(record.roles),
        "created": time_text(record.created),
        "not_before": _time(record.not_before),
        "expires": _time(record.expires),
        "last_used": _time(used.get(record.id)),
        "revoked": None if record.revoked is None else _time(record.revoked.at),
        "reason": None if record.revoked is None else record.revoked.reason,
        "secrets": [
            {"created": time_text(each.created), "expires": _time(each.expires), "rotation": each.rotation or None}
            for each in record.working(now)
        ],
        "begun": None if record.pending is None else record.pending.rotation,
        "version": record.version,
    }


def print_json(found: object) -> None:
    """Print JSON in ASCII: nothing that a terminal would obey."""
    console().print(json.dumps(found, indent=2))


def print_list(records: Iterable[Record], now: int, used: Mapping[str, int]) -> None:
    """Print a table of keys, one a line, whose ids can be copied however narrow the terminal is."""
    out = console()
    rows = [[name.upper() for name in _COLUMNS]]
    for record in records:
        shown = document(record, now, used) | dict(record.attributes)
        rows.append([printable(str(shown.get(name) or "-"), out.encoding) for name in _COLUMNS])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        out.print("  ".join(map(str.ljust, row, widths)).rstrip())


def print_one(record: Record, now: int, used: Mapping[str, int], unused: str) -> None:
    """Print all of one key. `unused` is said where its last use is not known."""
    out = console()
    for name, text in _lines(document(record, now, used)):
        out.print(f"{name:<13} {printable(text if name != 'last used' else text or unused, out.encoding)}".rstrip())


def hint(ending: Sequence[Record]) -> str:
    """What to do about keys that end soon."""
    first = ending[0]
    others = f" and {len(ending) - 1} more" if len(ending) > 1 else ""
    return (
        f"{first.id}{others} will expire within 30 days, on {_time(first.expires)}: "
        "genops-extauth keys rotate ID --expires 365d"
    )


def _lines(shown: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in shown.items():
        match name, value:
            case "attributes", dict():
                yield from ((key, str(each)) for key, each in value.items())
            case "secrets", list():
                yield from (("secret", _secret(each)) for each in value)
            case "begun", str():
                yield "rotation", f"{value} was begun and not completed: repeat it with --rotation-id {value}"
            case "last_used", _:
                yield "last used", str(value or "")
            case _, list():
                yield name, " ".join(map(str, value)) or "-"
            case _, None:
                pass
            case _:
                yield name.replace("_", " "), str(value)


def _secret(secret: Mapping[str, object]) -> str:
    by = f", by rotation {secret['rotation']}" if secret["rotation"] else ""
    until = f", works until {secret['expires']}" if secret["expires"] else ""
    return f"of {secret['created']}{by}{until}"


def _time(at: int | None) -> str | None:
    return None if at is None else time_text(at)
