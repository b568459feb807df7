"""Hosts of requests, and hosts of routes."""

import pytest

from genops_extauth.hosts import host_of, host_pattern


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("api.test", "api.test"),
        ("API.Test:8443", "api.test"),
        ("api.test.", "api.test"),
        ("api.test:", "api.test"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("[2001:DB8:0::1]:80", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("", ""),
        ("api.test:80:80", ""),
        ("user@api.test", ""),
        ("api..test", ""),
        (".test", ""),
        ("api.test/x", ""),
        ("[::1", ""),
        ("[1:2]", ""),
        ("2001:db8::1", ""),
        ("\u212apple.test", ""),
        ("a." * 200, ""),
    ],
)
def test_host_is_found_in_an_authority(authority: str, host: str) -> None:
    """A host is compared in lower case, without port and final dot; what is no host is nobody's."""
    assert host_of(authority) == host


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("API.example.com", "api.example.com"),
        ("*.example.com", "*.example.com"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("localhost", "localhost"),
    ],
)
def test_hosts_of_routes(text: str, read: str) -> None:
    """A route names a host, all names below one, or an address."""
    assert host_pattern(text) == read


@pytest.mark.parametrize(
    "text", ["", "api.test:80", "*", "a.*.test", "*test", "[::1", "[::1]:80", "https://a", "é.test"]
)
def test_what_is_no_host_is_refused(text: str) -> None:
    """Anything else is refused with what to write."""
    with pytest.raises(ValueError, match="write a host without port"):
        host_pattern(text)
