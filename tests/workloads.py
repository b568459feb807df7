"""Certificates of workloads for tests: their names, their ends, as files and as Envoy passes them on."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_KEY = ec.generate_private_key(ec.SECP256R1())
NOW = 1_800_000_000.0
"""Seconds since the epoch; the tests' present, where nothing else is said."""


@dataclass(frozen=True)
class Workload:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @cached_property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def passed_on(self) -> str:
        """As Envoy writes it in `source.certificate` and in XFCC."""
        return quote(self.pem, safe="")

    def written(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Its files: certificate and key."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.pem)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key.write_bytes(self.key.private_bytes(*form))
        return certificate, key


def workload(
    uris: Sequence[str] = (),
    dns: Sequence[str] = (),
    *,
    subject: str = "somebody",
    now: float = NOW,
    lives: float = 3600.0,
    by: Workload | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
) -> Workload:
    """A certificate with these names, signed `by` an authority, or by itself."""
    key = _KEY if by is None and now == NOW else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    issuer = name if by is None else by.certificate.subject
    start = dt.datetime.fromtimestamp(now, dt.UTC) - dt.timedelta(hours=1)
    builder = x509.CertificateBuilder(subject_name=name, issuer_name=issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
    builder = builder.not_valid_after(dt.datetime.fromtimestamp(now + lives, dt.UTC))
    names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return Workload(builder.sign(key if by is None else by.key, hashes.SHA256()), key)


def authority(now: float = NOW) -> Workload:
    """An authority, for a day."""
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    return workload(subject="authority", now=now, lives=86_400, extensions=[constraints])
