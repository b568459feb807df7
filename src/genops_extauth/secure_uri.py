"""Which URIs keys may be fetched from: a pure check, for the configuration and again for the client that fetches."""

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

# Parsers differ over control characters, spaces and backslashes (some strip them, some end the host there): on what is
# left they agree about the host, so that the one we check is the one that is asked. RFC 3986 section 2.
_URI = re.compile(r"[!-\[\]-~]+")

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""WHATWG URL section 3.5: a host whose last label is such a number is an IPv4 address."""


def require_secure(uri: str) -> None:
    """Refuse a URI that keys must not come from: with credentials or a fragment, or not https.

    Plain http is for loopback hosts alone. Raises `ValueError`; the message says what to do, and never
    repeats the URI, which may hold a password.
    """
    parts = _split(uri)
    if "@" in parts.netloc:
        raise ValueError(
            "the URI holds a user name or password: remove it, public keys are fetched without credentials"
        )
    if "#" in uri:
        raise ValueError("the URI has a fragment, which is never sent: remove everything from # on")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ValueError(
            "the URI is not https: whoever can change the keys on their way can make tokens; use https://, "
            "or http:// with a loopback host (127.0.0.0/8, [::1], localhost)"
        )


def discovery_uri(issuer: str) -> str:
    """Where an issuer says of itself what there is to know: OpenID Connect Discovery 1.0, section 4.1.

    Raises `ValueError` where the issuer is no URL that can be asked.
    """
    require_secure(issuer)
    if "?" in issuer:
        raise ValueError("the issuer has a query, which discovery does not know: write jwks_uri in place of discovery")
    return issuer.removesuffix("/") + "/.well-known/openid-configuration"


def require_no_deeper(uri: str, issuer: str) -> None:
    """Refuse a URI that `issuer` named, if it leads to an address inside: loopback, link-local, private (SSRF).

    An issuer that is there itself may name its own host. Names are not resolved here: issuers inside have names too,
    and whoever answers must have a certificate for the name. Raises `ValueError`, as `require_secure` does.
    """
    require_secure(uri)
    host = _split(uri).hostname or ""
    if _is_inside(host) and host != _split(issuer).hostname:
        raise ValueError(
            "the URI leads to a loopback, link-local or private address that is not the issuer's own host: if it is "
            "right, write it as jwks_uri in place of discovery"
        )


def _split(uri: str) -> SplitResult:
    if not _URI.fullmatch(uri):
        raise ValueError(
            "the URI is empty or has a character that a URI cannot have: percent-encode it, a host as xn--..."
        )
    try:
        parts = urlsplit(uri)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("the URI is not an absolute http URI: write it as https://host/path or https://host:port/path")
    return parts


def _is_loopback(host: str) -> bool:
    """Addresses, and the one name of RFC 6761 section 6.3: ``127.evil.example`` is wherever its owner's DNS says."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_inside(host: str) -> bool:
    """Whether a host is, as it is written, an address that is not global, or a name of this machine."""
    name = host.removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return not ip_address(name).is_global
    except ValueError:
        # 2130706433, 127.1, 0x7f.1: the system's resolver takes them for IPv4 addresses, and no host name ends so.
        return _NUMBER.fullmatch(name.rpartition(".")[2]) is not None
