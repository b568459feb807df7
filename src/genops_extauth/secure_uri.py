"""Which URIs keys may be fetched from: a pure check, for the configuration and again for the client that fetches."""

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

# Parsers differ over control characters, spaces and backslashes (some strip them, some end the host there): on what is
# left they agree about the host, so that the one we check is the one that is asked. RFC 3986 section 2.
_URI = re.compile(r"[!-\[\]-~]+")


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
