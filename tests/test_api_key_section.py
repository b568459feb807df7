import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from genops_extauth.api_key_section import ApiKeys
from genops_extauth.key_lifecycle import Record, Secret
from genops_extauth.key_places import Places
from genops_extauth.key_records import written
from genops_extauth.problems import findings
from genops_extauth.sources import Sources

DIGEST_KEY = "d" * 32
RECORD = Record("0123456789abcdef", "a key", (Secret(b"d" * 32, 1),), 1)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "digest.key").write_text(f"{DIGEST_KEY}\n")
    (tmp_path / "short.key").write_text("d" * 31)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / f"{RECORD.id}.json").write_bytes(written(RECORD))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "note.txt").write_text("no record")
    return tmp_path


def loaded(place: Path, /, **section: Any) -> ApiKeys:
    sources = Sources(place, {"KEY": DIGEST_KEY, "SHORT": "d" * 31})
    return ApiKeys.model_validate(section, context=sources)


def told(place: Path, /, **section: Any) -> list[str]:
    """What is wrong with a section."""
    with pytest.raises(ValidationError) as raised:
        loaded(place, **section)
    return [f"{'.'.join(map(str, each.path))}: {each.message}" for each in findings(raised.value, ApiKeys)]


def test_little_need_be_written(place: Path) -> None:
    """With a digest key alone keys come in x-api-key and as bearer tokens, and are kept in the store."""
    section = loaded(place, digest_key_file="digest.key")
    assert (section.digest_key, section.store, section.records) == (DIGEST_KEY.encode(), True, ())
    assert section.places == Places("x-api-key", bearer=True, query="")
    assert section.max_stale == 3600.0


def test_all_can_be_said(place: Path) -> None:
    """Names of headers are in lower case; records of a directory are read with it."""
    section = loaded(
        place, header="X-Key", bearer="false", query="key", digest_key_env="KEY", store="false", directory="records"
    )
    assert section.places == Places("x-key", bearer=False, query="key")
    assert (section.digest_key, section.records) == (DIGEST_KEY.encode(), (RECORD,))


def test_a_change_in_the_directory_is_another_configuration(place: Path) -> None:
    """Two readings of one section are equal unless a record or the digest key changed: then it is reloaded."""
    said = {"digest_key_file": "digest.key", "directory": "records"}
    before = loaded(place, **said)
    assert loaded(place, **said) == before
    (place / "records" / f"{RECORD.id}.json").unlink()
    assert loaded(place, **said) != before
    (place / "digest.key").write_text("e" * 32)
    assert loaded(place, digest_key_file="digest.key") != loaded(place, digest_key_env="KEY")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, ": write one of digest_key_file, digest_key_env; make one with: head -c 48"),
        ({"digest_key_file": "digest.key", "digest_key_env": "KEY"}, ": write one of digest_key_file"),
        ({"digest_key_file": "none.key"}, "digest_key_file: cannot be read: No such file or directory; make one"),
        ({"digest_key_file": "short.key"}, "digest_key_file: holds 31 bytes, and 32 are the least; make one"),
        ({"digest_key_env": "SHORT"}, "digest_key_env: holds 31 bytes, and 32 are the least; make one"),
        ({"digest_key_env": "NONE"}, "digest_key_env: the environment variable is not set; make one"),
        ({"digest_key_env": "not a name"}, "digest_key_env: write the name of an environment variable"),
        ({"header": "authorization"}, "header: bearer: true takes keys from there"),
        ({"header": "Cookie"}, "header: browsers send it by themselves"),
        ({"header": "x-genops-key"}, "header: x-genops-* are ours"),
        ({"store": "false"}, "store: records are nowhere then: write directory too"),
        ({"directory": "none"}, "directory: cannot be read: No such file or directory"),
        ({"directory": "broken"}, "directory: note.txt: not JSON in UTF-8"),
        ({"tiers": []}, "tiers: an empty list lets no key in that names a tier"),
        ({"max_stale": "25h"}, "max_stale: must be from 0s to 24h"),
    ],
)
def test_what_is_wrong_is_told(place: Path, section: dict[str, Any], said: str) -> None:
    """What is wrong is told where it stands, with what to write instead."""
    good = {} if not section or any(name.startswith("digest_key") for name in section) else {"digest_key_env": "KEY"}
    (problem,) = told(place, **good, **section)
    assert problem.startswith(said)


def test_the_digest_key_is_never_shown(place: Path) -> None:
    """Nothing that is printed of a section, or of what is wrong with it, holds the digest key."""
    section = loaded(place, digest_key_file="digest.key", directory="records")
    assert DIGEST_KEY not in repr(section) + str(section) + section.model_dump_json()
    assert "d" * 31 not in str(told(place, digest_key_file="short.key") + told(place, digest_key_env="d" * 31))


def test_any_bytes_make_a_digest_key(place: Path) -> None:
    """A digest key is bytes, in whatever encoding."""
    key = os.urandom(64).replace(b"\n", b"x").strip() + b"\xff" * 32
    (place / "digest.key").write_bytes(key)
    assert loaded(place, digest_key_file="digest.key").digest_key == key
