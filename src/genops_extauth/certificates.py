"""A server's certificate, its key, and the authorities of its clients: files that fit together; and whose names."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

from genops_extauth.sources import SourceError, read

MAX_PEM_BYTES = 1 << 20
"""Of each file: all authorities of a system are a quarter of it."""

Complaint = tuple[str, str]
"""A file by its part of `Files`, and what to do."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where they are. `cert` holds the server's own certificate first, then those between it and its authority.

    With `client_ca` a client has to show a certificate of its authorities.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the files hold, in PEM."""

    cert: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None


class CredentialsError(Exception):
    """Raised where the files cannot be used; `complaints` are all that is wrong, and quote nothing of them."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        super().__init__("; ".join(f"{part}_file: {message}" for part, message in complaints))
        self.complaints = tuple(complaints)


def read_credentials(files: Files, known: Credentials | None = None) -> Credentials:
    """Read all files; what they hold is looked at, unless it is what is `known`. Raises `CredentialsError`."""
    try:
        return _read(files, known)
    except CredentialsError:
        return _read(files, known)  # A Secret is swapped at one moment: half of each is the past at the second look.


def expires(pem: bytes) -> float:
    """When the first of these certificates expires, in seconds since the epoch: from then on the chain is broken."""
    return min(each.not_valid_after_utc.timestamp() for each in load_pem_x509_certificates(pem))


def _read(files: Files, known: Credentials | None) -> Credentials:
    found: dict[str, bytes] = {}
    complaints: list[Complaint] = []
    for part in ("cert", "key", "client_ca"):
        path = getattr(files, part)
        try:
            if path is not None:
                found[part] = read(path, MAX_PEM_BYTES)
        except SourceError as error:
            complaints.append((part, str(error)))
    if complaints:
        raise CredentialsError(complaints)
    credentials = Credentials(**found)
    if credentials != known and (complaints := list(_unfit(credentials))):
        raise CredentialsError(complaints)
    return credentials


def _unfit(credentials: Credentials) -> Iterator[Complaint]:
    chain = _certificates(credentials.cert)
    if not chain:
        yield "cert", "holds no certificate in PEM"
    if credentials.client_ca is not None and not _certificates(credentials.client_ca):
        yield "client_ca", "holds no certificate in PEM"
    try:
        public = _public(credentials.key)
    except ValueError as error:
        yield "key", str(error)
        return
    if chain and public != chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        yield "key", "is the key of another certificate; the server's own comes first in cert_file"


def _certificates(pem: bytes) -> list[Certificate]:
    try:
        return load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm):
        return []


def _public(key: bytes) -> bytes:
    try:
        loaded = load_pem_private_key(key, None)
    except TypeError:
        raise ValueError("is encrypted; write it without a passphrase, and let nobody else read it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no private key in PEM") from None
    return loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def is_named(names: Iterable[str], wanted: Iterable[str]) -> bool:
    """Whether one of a certificate's DNS names is one that is wanted.

    ``*.`` in front stands for one whole label, and nothing else is a wildcard (RFC 9525, 6.3).
    """
    known = {name.lower() for name in names}
    return any(known & {name, f"*.{name.partition('.')[2] or name}"} for name in map(str.lower, wanted))
