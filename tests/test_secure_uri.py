"""Which URIs keys may be fetched from."""

import pytest

from genops_extauth.secure_uri import require_secure


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
