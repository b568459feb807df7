"""Certificate files: what fits together, and whose name a certificate has."""

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization import load_pem_private_key as load

from certificates import Authority
from genops_extauth.certificates import Credentials, CredentialsError, Files, expires, is_named, read_credentials


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority: Authority) -> Files:
    pair = authority.issue("limiter")
    return Files(pair.certificate, pair.key, authority.file)


def complaints(files: Files) -> dict[str, str]:
    with pytest.raises(CredentialsError) as caught:
        read_credentials(files)
    return dict(caught.value.complaints)


def test_files_that_fit_together_are_read(files: Files) -> None:
    """A certificate, its key and the clients' authorities are what the files hold; the last may be left out."""
    assert files.client_ca is not None
    held = Credentials(files.cert.read_bytes(), files.key.read_bytes(), files.client_ca.read_bytes())
    assert read_credentials(files) == held
    assert read_credentials(Files(files.cert, files.key)).client_ca is None


def test_a_chain_is_one(authority: Authority, files: Files) -> None:
    """The certificates between the server's own and its authority may follow it, and not come before it."""
    own, above = files.cert.read_bytes(), authority.file.read_bytes()
    files.cert.write_bytes(own + above)
    read_credentials(files)
    files.cert.write_bytes(above + own)
    assert complaints(files) == {"key": "is the key of another certificate; the server's own comes first in cert_file"}


def test_a_chain_expires_with_its_first(authority: Authority) -> None:
    """A chain holds for as long as each of its certificates: whether its own or the authority's ends first."""
    week, year = (authority.issue(name, days).certificate.read_bytes() for name, days in (("a", 7), ("b", 365)))
    days = [(expires(pem + authority.file.read_bytes()) - time.time()) / 86_400 for pem in (week, year)]

    assert days == pytest.approx([7, 30], abs=0.1)


def test_everything_that_is_wrong_is_told(files: Files, tmp_path: Path) -> None:
    """Each file that cannot be read, or holds something else, is named; all at once."""
    lacking = Files(tmp_path / "a", tmp_path / "b", tmp_path)
    assert complaints(lacking) == {
        "cert": "cannot be read: No such file or directory",
        "key": "cannot be read: No such file or directory",
        "client_ca": "cannot be read: not a regular file",
    }
    (tmp_path / "a").write_bytes(b"")
    swapped = Files(files.key, files.cert, tmp_path / "a")
    assert complaints(swapped) == {
        "cert": "holds no certificate in PEM",
        "key": "holds no private key in PEM",
        "client_ca": "holds no certificate in PEM",
    }


def test_another_key_is_told(authority: Authority, files: Files) -> None:
    """A key that is not the certificate's, as between two writes of a renewal, is told."""
    other = authority.issue("other")
    assert complaints(Files(files.cert, other.key)).keys() == {"key"}
    assert complaints(Files(other.certificate, files.key)).keys() == {"key"}


def test_an_encrypted_key_is_told(files: Files) -> None:
    """A key with a passphrase, for which nobody is there to be asked, is told."""
    key = load(files.key.read_bytes(), None)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")))
    assert "is encrypted" in complaints(files)["key"]


def test_a_key_does_not_show(files: Files) -> None:
    """The key is in no repr."""
    assert "PRIVATE KEY" not in repr(read_credentials(files))


@pytest.mark.parametrize(
    ("name", "wanted", "due"),
    [
        ("envoy.example.com", "envoy.example.com", True),
        ("Envoy.Example.COM", "envoy.example.com", True),
        ("envoy", "envoy", True),
        ("*.example.com", "envoy.example.com", True),
        ("*.example.com", "*.example.com", True),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "example.com", False),
        ("*.", "envoy", False),
        ("*", "envoy", False),
        ("e*.example.com", "envoy.example.com", False),
        ("envoy.example.com.evil.test", "envoy.example.com", False),
        ("", "envoy", False),
    ],
)
def test_a_wildcard_is_one_whole_label(name: str, wanted: str, due: bool) -> None:  # noqa: FBT001 - of the table
    """A name is the wanted one in any case of letters, or with `*.` for its first label; nothing else matches."""
    assert is_named(["other.test", name], [wanted]) is due


def test_no_name_is_nobody() -> None:
    """A certificate without names has none that is wanted, and one of several wanted is enough."""
    assert not is_named([], ["envoy"])
    assert is_named(["b"], ["a", "b"])
