"""Which names a peer has, by its certificate, by what an earlier proxy says of that, or by the one a gateway tells.

Names have types. A SPIFFE id comes from a URI SAN, a DNS name from a DNS SAN, and a subject (``CN=...``) is neither:
authorities write there what they like (RFC 9525, 2).
"""

import re
from collections.abc import Sequence
from math import inf
from typing import NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import (
    BasicConstraints,
    Certificate,
    DNSName,
    DuplicateExtension,
    ExtensionNotFound,
    ExtensionType,
    InvalidVersion,
    KeyUsage,
    SubjectAlternativeName,
    UniformResourceIdentifier,
    UnsupportedGeneralNameType,
    load_pem_x509_certificates,
)

from genops_extauth import xfcc
from genops_extauth.spiffe import SpiffeId, is_spiffe, spiffe_id

Extension = TypeVar("Extension", bound=ExtensionType)

# RFC 1123, 2.1, and underscores, which names of services have. A wildcard is a pattern, and names nobody.
_DNS_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")

_UNREADABLE = (
    ValueError,
    UnsupportedAlgorithm,
    DuplicateExtension,
    InvalidVersion,
    UnsupportedGeneralNameType,
)
"""What `cryptography` raises for bytes that are no certificate, or a strange one."""


class NamesError(ValueError):
    """Raised when what is said of a peer is malformed, or breaks a rule. The message never holds any of it."""


class Names(NamedTuple):
    """A peer's names, DNS in lower case. They hold until `until`, in seconds since the epoch, where it is known."""

    spiffe: SpiffeId | None = None
    dns: tuple[str, ...] = ()
    until: float = inf


def of_certificate(text: bytes) -> Names:
    """The names in a certificate in PEM and URL encoding, as Envoy passes it on. Raises `NamesError`."""
    try:
        (certificate,) = load_pem_x509_certificates(unquote_to_bytes(text))
        alternative = _extension(certificate, SubjectAlternativeName)
        uris = alternative.get_values_for_type(UniformResourceIdentifier) if alternative else ()
        dns = alternative.get_values_for_type(DNSName) if alternative else ()
        authority = _is_authority(certificate)
    except _UNREADABLE:
        raise NamesError("not one certificate in PEM and URL encoding") from None
    names = _named(uris, dns, certificate.not_valid_after_utc.timestamp())
    if names.spiffe is not None and authority:
        raise NamesError("the certificate of an authority (X509-SVID, 5.2)")  # It signs workloads', and is none.
    return names


def of_principal(text: bytes) -> Names:
    """The one name that a gateway tells: the first URI SAN, else DNS SAN, else the subject. Raises `NamesError`."""
    name = text.decode(errors="replace")
    return _named((name,), (), inf) if is_spiffe(name) else Names(dns=_dns((name,)))


def of_forwarded(header: bytes) -> Names:
    """The names in an ``x-forwarded-client-cert``: those of the certificate, if it is in there. Raises `NamesError`."""
    try:
        element = xfcc.parse(header)
    except xfcc.XfccError as error:
        raise NamesError(f"x-forwarded-client-cert: {error}") from None
    return (
        of_certificate(element.certificate.encode()) if element.certificate else _named(element.uris, element.dns, inf)
    )


def _named(uris: Sequence[str], dns: Sequence[str], until: float) -> Names:
    if not any(map(is_spiffe, uris)):
        return Names(None, _dns(dns), until)
    if len(uris) > 1:
        raise NamesError("a SPIFFE id beside another URI (X509-SVID, 2)")
    try:
        return Names(spiffe_id(uris[0]), _dns(dns), until)
    except ValueError:
        raise NamesError("not a SPIFFE id of a workload") from None


def _dns(names: Sequence[str]) -> tuple[str, ...]:
    """Those that are names. Others are passed over: they can be equal to nothing that is configured."""
    return tuple(name for name in map(str.lower, names) if _DNS_NAME.fullmatch(name))


def _is_authority(certificate: Certificate) -> bool:
    constraints, usage = _extension(certificate, BasicConstraints), _extension(certificate, KeyUsage)
    signs = usage is not None and (usage.key_cert_sign or usage.crl_sign)
    return signs or (constraints is not None and constraints.ca)


def _extension(certificate: Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except ExtensionNotFound:
        return None
