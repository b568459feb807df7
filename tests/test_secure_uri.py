"""Which URIs keys may be fetched from."""

import pytest

from genops_extauth.secure_uri import discovery_uri, require_no_deeper, require_secure


@pytest.mark.parametrize(
    "uri",
    [
        "https://auth.example.com/.well-known/jwks.json",
        "HTTPS://auth.example.com:8443/keys?p=B2C_1_sign_in",
        "https://[2001:db8::1]/jwks",
        "http://127.0.0.1:8080/jwks",
        "http://127.254.0.9/jwks",
        "http://[::1]:8080/jwks",
        "http://LocalHost/jwks",
    ],
)
def test_accepts(uri: str) -> None:
    """Keys may come over https from anywhere, and over http from a loopback host."""
    require_secure(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "http://auth.example.com/jwks",
        "http://10.0.0.1/jwks",
        "http://0.0.0.0/jwks",
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1.evil.example/jwks",
        "http://127.0.0.1%2eevil.example/jwks",
        "http://127.1/jwks",
        "http://localhost.evil.example/jwks",
        "http://localhost./jwks",
        "http://[fe80::1]/jwks",
    ],
)
def test_refuses_plain_http(uri: str) -> None:
    """A host that only looks like loopback is not: keys that came in the clear could be anybody's."""
    with pytest.raises(ValueError, match="not https"):
        require_secure(uri)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("https://user:pa55word@auth.example.com/jwks", "user name or password"),
        ("https://@auth.example.com/jwks", "user name or password"),
        ("http://127.0.0.1@evil.example/jwks", "user name or password"),
        ("https://auth.example.com/jwks#key", "fragment"),
        ("https://auth.example.com/jwks#", "fragment"),
        ("file:///etc/passwd", "absolute http URI"),
        ("ftp://auth.example.com/jwks", "absolute http URI"),
        ("auth.example.com/jwks", "absolute http URI"),
        ("//auth.example.com/jwks", "absolute http URI"),
        ("https:///jwks", "absolute http URI"),
        ("https://auth.example.com:99999/jwks", "absolute http URI"),
        ("https://auth.example.com:port/jwks", "absolute http URI"),
        ("https://[::1/jwks", "absolute http URI"),
        ("", "empty or has a character"),
        (" https://auth.example.com/jwks", "empty or has a character"),
        ("https://auth.example.com/jwks\n", "empty or has a character"),
        ("http://127.0.0.1\\@evil.example/jwks", "empty or has a character"),
        ("https://müller.example/jwks", "empty or has a character"),
    ],
)
def test_refuses_other(uri: str, reason: str) -> None:
    """Credentials, fragments, other schemes and what does not parse are refused, and what was given is not repeated."""
    with pytest.raises(ValueError, match=reason) as refusal:
        require_secure(uri)

    assert "pa55word" not in str(refusal.value)
    assert "pa55word" not in repr(refusal.value.__cause__)


@pytest.mark.parametrize(
    ("issuer", "expected"),
    [
        ("https://auth.example.com", "https://auth.example.com/.well-known/openid-configuration"),
        ("https://tenant.auth0.com/", "https://tenant.auth0.com/.well-known/openid-configuration"),
        ("https://kc.example.com/realms/ai", "https://kc.example.com/realms/ai/.well-known/openid-configuration"),
        ("http://127.0.0.1:5556/dex/", "http://127.0.0.1:5556/dex/.well-known/openid-configuration"),
    ],
)
def test_discovery_uri(issuer: str, expected: str) -> None:
    """An issuer describes itself below its own path; a slash at its end is not doubled."""
    assert discovery_uri(issuer) == expected


@pytest.mark.parametrize(
    ("issuer", "reason"),
    [
        ("auth.example.com", "absolute http URI"),
        ("http://auth.example.com", "not https"),
        ("https://auth.example.com/?tenant=a", "query"),
        ("https://auth.example.com/#a", "fragment"),
    ],
)
def test_undiscoverable(issuer: str, reason: str) -> None:
    """What is no URL, or a URL that no document can be asked of safely, is refused with the reason."""
    with pytest.raises(ValueError, match=reason):
        discovery_uri(issuer)


_INSIDE = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0", "0.0.0.0", "localhost", "LOCALHOST", "localhost.",
    "a.localhost", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "[::1]", "[::]",
    "[fe80::1]", "[fd00::1]", "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[fe80::1%25eth0]", "10.0.0.1.",
]  # fmt: skip


@pytest.mark.parametrize("host", _INSIDE)
def test_no_deeper(host: str) -> None:
    """However an address inside is written, an issuer outside cannot send us there (SSRF)."""
    with pytest.raises(ValueError, match="write it as jwks_uri"):
        require_no_deeper(f"https://{host}/keys", "https://auth.example.com")


@pytest.mark.parametrize(
    ("uri", "issuer"),
    [
        ("https://www.googleapis.com/oauth2/v3/certs", "https://accounts.google.com"),
        ("https://8.8.8.8/keys", "https://auth.example.com"),
        ("https://[2606:4700::1111]/keys", "https://auth.example.com"),
        ("https://10.0.0.5:8443/keys", "https://10.0.0.5/"),
        ("http://127.0.0.1:5556/dex/keys", "http://127.0.0.1:5556/dex"),
        ("https://0x.example/keys", "https://auth.example.com"),
    ],
)
def test_deep_enough(uri: str, issuer: str) -> None:
    """Hosts outside are for any issuer to name, and an issuer inside may name its own."""
    require_no_deeper(uri, issuer)


@pytest.mark.parametrize("uri", ["http://keys.example.com/", "http://127.0.0.1/keys", "https://u:p@keys.example.com/"])
def test_no_deeper_is_secure(uri: str) -> None:
    """What a server names is held to all that a configured URI is held to."""
    with pytest.raises(ValueError, match="URI"):
        require_no_deeper(uri, "https://auth.example.com")
