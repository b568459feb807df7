import stat
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from genops_extauth import key_files, key_records, private_files
from genops_extauth.key_files import FileKeys
from genops_extauth.key_lifecycle import Record, Secret
from genops_extauth.key_operations import ConflictError
from genops_extauth.key_records import written
from genops_extauth.sources import SourceError

RECORD = Record("0123456789abcdef", "a key", (Secret(b"d" * 32, 1),), 1)
OTHER = replace(RECORD, id="fedcba9876543210")


def mounted(folder: Path, version: str, *records: Record) -> None:
    """Put records where Kubernetes would mount them as a Secret; again, as it changes them."""
    place = folder / f"..{version}"
    place.mkdir()
    for record in records:
        name = f"{record.id}.json"
        (place / name).write_bytes(written(record))
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(place.name)
    (folder / "..data_tmp").replace(folder / "..data")


def test_a_mounted_secret_is_read(tmp_path: Path) -> None:
    """Records are read through the links of a mounted Secret, each once, and what replaces it is read then."""
    mounted(tmp_path, "1", RECORD, OTHER)
    assert key_files.records(tmp_path) == ([RECORD, OTHER], [])
    changed = replace(RECORD, version=2, name="renamed")
    mounted(tmp_path, "2", changed, OTHER)
    assert key_files.records(tmp_path) == ([changed, OTHER], [])


def test_a_swap_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    """What is swapped while it is read is read again: never half of each."""
    mounted(tmp_path, "1", RECORD, OTHER)
    after = [replace(each, version=2) for each in (RECORD, OTHER)]
    read, swapped = key_records.read, iter([True])

    def swapping(data: bytes) -> Record:
        if next(swapped, False):
            mounted(tmp_path, "2", *after)
        return read(data)

    with mock.patch.object(key_records, "read", swapping):
        assert key_files.records(tmp_path) == (after, [])


def test_every_file_must_be_what_it_says(tmp_path: Path) -> None:
    """A file that holds no record, or another one than its name says, is told; the names of others count as files."""
    (tmp_path / f"{RECORD.id}.json").write_bytes(written(OTHER))
    (tmp_path / f"{OTHER.id}.json").write_bytes(b"{}")
    (tmp_path / "README").write_text("records")
    (tmp_path / "folder").mkdir()
    (tmp_path / ".hidden").write_text("nothing")
    assert key_files.records(tmp_path) == (
        [],
        [
            f"{RECORD.id}.json: holds the record of {OTHER.id}: name it {OTHER.id}.json",
            "README: not JSON in UTF-8",
            f"{OTHER.id}.json: id: 16 digits and lower-case letters",
            "folder: cannot be read: not a regular file",
        ],
    )


def test_a_folder_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is missing, or holds too much to be one of records, is told."""
    with pytest.raises(SourceError, match="No such file"):
        key_files.records(tmp_path / "missing")
    mounted(tmp_path, "1", RECORD, OTHER)
    monkeypatch.setattr(key_files, "MAX_FILES", 1)
    with pytest.raises(SourceError, match="more than 1 files: name a smaller folder"):
        key_files.records(tmp_path)


async def test_files_are_kept_as_the_store_keeps_records(tmp_path: Path) -> None:
    """A record is written over the version before it alone, with mode 0600, and read back as it is."""
    keys = FileKeys(tmp_path)
    await keys.put(RECORD)
    await keys.put(RECORD)
    assert await keys.get(RECORD.id) == RECORD
    assert await keys.get(OTHER.id) is None
    later = replace(RECORD, version=2)
    await keys.put(later)
    for record in (replace(RECORD, name="another"), replace(RECORD, version=4), replace(OTHER, version=2)):
        with pytest.raises(ConflictError):
            await keys.put(record)
    assert await keys.all() == ([later], [])
    assert await keys.used([RECORD.id]) == {}
    assert private(tmp_path) == {f"{RECORD.id}.json": written(later) + b"\n"}


def private(folder: Path) -> dict[str, bytes]:
    """What the files in a folder hold, which only their owner may read."""
    files = list(folder.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize("write", [private_files.create, private_files.replace])
def test_private_files_are_whole_and_private(tmp_path: Path, write: object) -> None:
    """A file is there whole with mode 0600, or not at all, and nothing else is left in the folder."""
    assert callable(write)
    (tmp_path / ".key.new").write_bytes(b"half of w")  # what a crash left behind
    (tmp_path / ".key.new").chmod(0o644)
    write(tmp_path / "key", b"whole")
    assert private(tmp_path) == {"key": b"whole"}


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    """A new file never takes the place of another one, nor goes through a link."""
    (tmp_path / "key").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere")
    for name in ("key", "link"):
        with pytest.raises(FileExistsError):
            private_files.create(tmp_path / name, b"new")
    assert (tmp_path / "key").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "link"]
