"""What the fuzzer learned, asked again; and edits of good inputs, without coverage but with every run of the suite."""

from pathlib import Path
from random import Random

import pytest
from fuzz.edits import edited
from fuzz.planted import API_KEY, BAD, CREDENTIALS, PROOFS, TOKEN
from fuzz.seeds import SEEDS, request
from fuzz.targets import TARGETS, answered, check
from hypothesis import given, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).parent.parent / "fuzz" / "corpus"
each_target = pytest.mark.parametrize("target", TARGETS)


@each_target
def test_the_corpus_holds(target: str) -> None:
    """Every input that the fuzzer kept, and every one that it began with, meets its oracle."""
    kept = [file.read_bytes() for file in sorted((CORPUS / target).iterdir())]
    assert len(kept) >= 20
    for data in (*SEEDS[target], *kept):
        TARGETS[target](data)


def test_the_corpus_is_small() -> None:
    """The corpus is for people to carry around: under 1 MB, and no file is longer than what is fuzzed."""
    sizes = [file.stat().st_size for file in CORPUS.glob("*/*")]
    assert sum(sizes) < 2**20
    assert max(sizes) <= 4096


def test_the_seeds_reach_everybody() -> None:
    """Each credential that is good passes for its owner with one seed at least, and nobody passes with some."""
    assert set(map(answered, SEEDS["check"])) == {*PROOFS, "", None}


@each_target
@settings(max_examples=200)
@given(data=st.data())
def test_edits_hold(target: str, data: st.DataObject) -> None:
    """Edited seeds meet the oracle: header maps in both encodings, fields that stand twice or that nobody knows."""
    random: Random = data.draw(st.randoms(use_true_random=False))
    TARGETS[target](edited(target, data.draw(st.sampled_from(SEEDS[target])), random))


@each_target
@settings(max_examples=200)
@given(data=st.data())
def test_any_bytes_hold(target: str, data: st.DataObject) -> None:
    """Bytes at will, alone or in the place of some of a seed's, meet the oracle."""
    seed = data.draw(st.sampled_from([b"", *SEEDS[target]]))
    start, put = data.draw(st.integers(0, len(seed))), data.draw(st.binary(max_size=64))
    end = data.draw(st.integers(start, len(seed)))
    TARGETS[target](seed[:start] + put + seed[end:])


def test_the_oracle_sees_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who passes without a credential of theirs is a finding."""
    monkeypatch.setitem(PROOFS, "acme", lambda _: False)
    with pytest.raises(AssertionError, match="without a credential"):
        check(request(authorization=b"Bearer " + TOKEN).SerializeToString())


@pytest.mark.parametrize("credential", [TOKEN, API_KEY, BAD["unknown key"]], ids=["token", "key", "unknown key"])
def test_the_oracle_sees_a_credential(credential: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential that the log shows is a finding; in a path it is redacted, whether it is known or not."""
    asked = request(path=b"/v1/" + credential).SerializeToString()
    check(asked)
    assert credential in CREDENTIALS
    monkeypatch.setattr("genops_extauth.logs.clean", str)
    with pytest.raises(AssertionError, match="log repeats a credential"):
        check(asked)


def test_the_oracle_sees_a_token_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that nobody signed, and that is taken for somebody's, is a finding."""
    monkeypatch.setattr("fuzz.targets.TOKENS", {})
    with pytest.raises(AssertionError, match="without a token"):
        TARGETS["token"](TOKEN)
