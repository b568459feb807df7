"""Which files of a folder are read, and as of which moment."""

import os
from pathlib import Path

import pytest

from genops_extauth import ratelimit_folder
from genops_extauth.problems import ConfigError
from genops_extauth.ratelimit_folder import MAX_FILES, contents
from genops_extauth.sources import read
from genops_extauth.strict_yaml import GO_YAML


def mount(folder: Path, revision: str, **files: str) -> None:
    """Put a revision of a ConfigMap into `folder` as the kubelet does: written aside, then swapped in by one rename."""
    (folder / revision).mkdir(parents=True)
    for name, text in files.items():
        (folder / revision / f"{name}.yaml").write_text(text)
        if not (folder / f"{name}.yaml").is_symlink():
            (folder / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
    (folder / "..data_tmp").symlink_to(revision)
    (folder / "..data_tmp").rename(folder / "..data")


def test_all_files_are_read_at_any_depth_in_order(tmp_path: Path) -> None:
    """Every file is read, whatever its name, by its path below the folder; what begins with a dot is not."""
    for name in ("b.yaml", "a/z.json", "a/b/c", ".hidden", ".git/config", "a/.swp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found, problems = contents(tmp_path)

    assert found == {name: name.encode() for name in ("a/b/c", "a/z.json", "b.yaml")}
    assert list(found) == sorted(found)
    assert problems == []


def test_a_config_map_is_read_once(tmp_path: Path) -> None:
    """The links of a mounted ConfigMap are followed, and the dot folders that they lead to are not read again."""
    mount(tmp_path, "..2026_07_05_1", limits="first", more="x")
    assert contents(tmp_path)[0] == {"limits.yaml": b"first", "more.yaml": b"x"}

    mount(tmp_path, "..2026_07_05_2", limits="second", more="y")
    assert contents(tmp_path)[0] == {"limits.yaml": b"second", "more.yaml": b"y"}


def test_a_folder_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is returned is of one revision, though the ConfigMap was swapped between two of its files."""
    mount(tmp_path, "..1", a="first", b="first")

    def swapping(path: Path, limit: int) -> bytes:
        data = read(path, limit)
        if not (tmp_path / "..2").exists():
            mount(tmp_path, "..2", a="second", b="second")
            (tmp_path / "..1" / "b.yaml").unlink()
        return data

    monkeypatch.setattr(ratelimit_folder, "read", swapping)

    assert contents(tmp_path) == ({"a.yaml": b"second", "b.yaml": b"second"}, [])


def test_a_folder_that_never_rests_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is gone each time that it is to be read is a problem in the end."""
    (tmp_path / "0.yaml").write_text("")
    tries = []

    def vanishing(path: Path, limit: int) -> bytes:
        tries.append(path)
        path.unlink()
        (tmp_path / f"{len(tries)}.yaml").write_text("")
        return read(path, limit)

    monkeypatch.setattr(ratelimit_folder, "read", vanishing)
    found, problems = contents(tmp_path)

    assert found == {}
    assert [str(each) for each in problems] == ["2.yaml: 2.yaml: cannot be read: No such file or directory"]


def test_links_that_lead_round_end(tmp_path: Path) -> None:
    """Each folder is read once, however many links lead to it, or round."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to("a")

    assert list(contents(tmp_path)[0]) == ["a/x"]


def test_what_cannot_be_read_is_told_with_the_rest(tmp_path: Path) -> None:
    """A dangling link, a pipe and a file over the cap are problems of their own, and do not hide each other."""
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sub").open("wb") as file:
        file.truncate(GO_YAML.max_bytes + 1)
    _, problems = contents(tmp_path)

    assert [each.file for each in problems] == ["dangling", "pipe", "sub"]
    assert [each.message.partition(": cannot be read: ")[2] for each in problems] == [
        "No such file or directory",
        "not a regular file",
        f"larger than {GO_YAML.max_bytes} bytes",
    ]


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    """A folder that cannot be listed, or is a file, is told by its name."""
    (tmp_path / "file").write_text("")

    for name, reason in (("missing", "No such file"), ("file", "Not a directory")):
        with pytest.raises(ConfigError, match=f"{name}: the directory cannot be read: {reason}"):
            contents(tmp_path / name)


def test_too_many_files_are_an_error(tmp_path: Path) -> None:
    """A folder of more files than the cap, or of more bytes, is not read to its end."""
    (tmp_path / "few").mkdir()
    for number in range(5):
        with (tmp_path / "few" / f"{number}").open("wb") as file:
            file.truncate(GO_YAML.max_bytes)
    _, problems = contents(tmp_path)
    assert "hold more than 16777216 bytes" in str(problems[0])

    for number in range(MAX_FILES):
        (tmp_path / f"{number}").touch()
    with pytest.raises(ConfigError, match="holds more than 1000 files"):
        contents(tmp_path)
