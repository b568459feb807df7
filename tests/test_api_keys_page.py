"""What docs/api-keys.md shows is done, in order: its commands run, against a real store, on the key that is issued."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from generated import REPOSITORY
from pages import blocks, prose
from stores import VALKEY, running
from test_docs import shell

PAGE = REPOSITORY / "docs" / "api-keys.md"
SHOWN_ID = "7dy896m08s18udxr"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The folder of a reader who made a digest key as the page says, and a store."""
    (made,) = re.findall(r"`(head [^`]+)`", prose(PAGE))
    subprocess.run(["bash", "-c", made], cwd=tmp_path, check=True)
    (tmp_path / "records").mkdir()
    with running(VALKEY) as server:
        (tmp_path / "store").write_text(server.url)
        yield tmp_path


def test_the_commands_of_the_page_do_what_it_says(place: Path) -> None:
    """Each command of the page succeeds on the key issued before, and the repetition of a rotation changes nothing."""
    told = []
    key_id = SHOWN_ID
    for block in blocks(PAGE, "yaml", "sh"):
        if block.language == "yaml":
            configured = yaml.safe_load(block.text)
            if "store" in configured:
                configured["store"]["url"] = (place / "store").read_text()
            (place / "genops.yaml").write_text(yaml.safe_dump(configured))
            (place / "acme.key").unlink(missing_ok=True)
            continue
        for line in block.text.splitlines():
            said = shell(f"{line.replace(SHOWN_ID, key_id)}; echo $?", place)
            assert said.endswith("\n0\n"), f"{line}: {said}"
            told.append(said)
            if issued := re.search(r"issued (\w{16})", said):
                key_id = issued[1]
    issue, rotate, again, revoke, table, listed, shown, _, filed = told
    assert "it works now" in issue
    assert "the new key works now, the old one until" in rotate
    assert "rotation 2026-q1" in again
    assert "was complete: nothing was changed" in again
    assert "refused within a second" in revoke
    assert all("revoked" in each for each in (table, listed, shown))
    assert key_id in filed
    assert [path.suffix for path in (place / "records").iterdir()] == [".json"]
