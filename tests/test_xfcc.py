"""x-forwarded-client-cert: what has one reading is read, and nothing else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.xfcc import Element, XfccError, parse

ID = "spiffe://prod.example/ns/ml/sa/trainer"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f'By=spiffe://a/b;Hash=00ff;Subject="";URI={ID}', Element((ID,))),
        (f"URI={ID};DNS=a.example.com;DNS=b.example.com", Element((ID,), ("a.example.com", "b.example.com"))),
        ("By=spiffe://a/b;By=spiffe://a/c;URI=u1;URI=u2", Element(("u1", "u2"))),
        ('Hash=00;Subject="CN=a,O=b;c=d"', Element()),
        ('Subject="CN=\\"quoted\\",O=x";DNS=a', Element((), ("a",))),
        ('Subject="CN=a\\,b";DNS=a', Element((), ("a",))),
        ('Cert="-----BEGIN%20CERTIFICATE-----%0A";Chain="x"', Element((), (), "-----BEGIN%20CERTIFICATE-----%0A")),
        ('URI="https://x/?a=b;c,d"', Element(("https://x/?a=b;c,d",))),
        ("URI=;DNS=;Hash=1", Element()),
    ],
)
def test_what_envoy_writes_is_read(header: str, expected: Element) -> None:
    """One element, its values quoted where they must be; keys without a value name nothing."""
    assert parse(header.encode()) == expected


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("URI=a,URI=b", "more than one element"),
        ('Subject="CN=a",By=x', "more than one element"),
        ("Hash=1;Hash=2", "Hash twice"),
        ('Cert="a";URI=x;Cert="b"', "Cert twice"),
        ('Subject="a";Subject="b"', "Subject twice"),
        ("", "pairs"),
        (";", "pairs"),
        ("URI=a;", "pairs"),
        ("URI=a;;DNS=b", "pairs"),
        (",URI=a", "pairs"),
        ("uri=a", "pairs"),
        ("Foo=a", "pairs"),
        (" URI=a", "pairs"),
        ("URI", "pairs"),
        ("URI=a; DNS=b", "pairs"),
        ("URI=a b", "needs them"),
        ("URI=a=b", "needs them"),
        ('URI="a"b', "needs them"),
        ('Subject="a', "needs them"),
        ('Subject="a\\"', "needs them"),
        # Envoy's writing of the subject CN=a\",O=..., whose quote RFC 4514 escapes, and Envoy again.
        ('Subject="CN=a\\\\";URI=spiffe://prod.example/admin;Subject="', "needs them"),
        ("URI=ü", "ASCII"),
        ("URI=a\r\nDNS=b", "ASCII"),
        ("URI=a\0", "ASCII"),
    ],
)
def test_what_has_another_reading_is_refused(header: str, message: str) -> None:
    """Chains, keys twice, unknown keys, loose ends, and quotes whose escape is in doubt are refused."""
    with pytest.raises(XfccError, match=message):
        parse(header.encode())


def envoy(subject: str) -> bytes:
    """What Envoy writes for a subject with this common name (RFC 4514, 2.4; then its own escape of quotes)."""
    named = "CN=" + re.sub(r'([",+;<>\\])', r"\\\1", subject)
    return f'Hash=00;Subject="{named.replace(chr(34), chr(92) + chr(34))}";URI={ID}'.encode()


@given(st.text(st.sampled_from('a";,=\\URIDNS:/ '), max_size=30))
def test_a_subject_adds_no_name(subject: str) -> None:
    """Whatever stands in a subject, the names are those of the certificate, or the header is refused."""
    try:
        assert parse(envoy(subject)) == Element((ID,))
    except XfccError:
        assert "\\" in subject or '"' in subject


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(header: bytes) -> None:
    """Any bytes have a reading or are refused."""
    try:
        parse(header)
    except XfccError:
        return
    assert header.isascii()


def test_it_takes_a_time_that_grows_with_its_length() -> None:
    """A header as long as may be, all quotes and backslashes, is refused as fast as any."""
    for body in ('\\"', "\\", '"', "a;", "\\a"):
        with pytest.raises(XfccError):
            parse(b'Subject="' + body.encode() * 8000 + b"\\")
