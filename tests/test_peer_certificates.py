"""A peer's certificate, as the gateway tells of it, says who asks."""

import base64
from ipaddress import ip_network
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.model import Denied, Identity, Peer, Request
from genops_extauth.peer_certificates import DnsPattern, Hops, PeerCertificates, Rule
from genops_extauth.reasons import Reason
from genops_extauth.spiffe import pattern
from workloads import NOW, Workload, workload

TRAINER = "spiffe://prod.example/ns/ml/sa/trainer"
EDGE = "spiffe://prod.example/ns/edge/sa/gateway"
RULES = (
    Rule(pattern("spiffe://prod.example/ns/{team}/sa/{customer_id}"), {"project": "assistant"}, frozenset({"llm"})),
    Rule(DnsPattern("client.example.com"), {"team": "search"}, roles=frozenset({"batch"})),
    Rule(DnsPattern("*.partner.example.com"), {"team": "partners"}),
)
HOPS = Hops((), frozenset({EDGE}))


async def asked(
    peer: Peer, *, hops: Hops = HOPS, now: float = NOW, header: str | None = None, repeated: bool = False
) -> Identity | Denied | None:
    name = "x-forwarded-client-cert"
    headers = {} if header is None else {name: header.encode()}
    request = Request("POST", "/", "ai.example.com", headers, frozenset({name} if repeated else ()), peer=peer)
    return await PeerCertificates(RULES, hops).authenticate(request, lambda: now, lambda: None)


async def identity(peer: Peer, **how: Any) -> Identity:
    found = await asked(peer, **how)
    assert isinstance(found, Identity), found
    return found


async def refusal(peer: Peer, **how: Any) -> Denied:
    found = await asked(peer, **how)
    assert isinstance(found, Denied), found
    assert found.reason in (Reason.CERTIFICATE_MALFORMED, Reason.CERTIFICATE_EXPIRED)
    return found


def showing(certificate: Workload, principal: str = "whatever") -> Peer:
    return Peer("10.1.2.3", principal, certificate.passed_on)


# The connection's own certificate


async def test_a_spiffe_id_is_an_identity() -> None:
    """Named segments of the id are attributes, beside those of the entry; it ends with its certificate."""
    found = await identity(showing(workload([TRAINER])))
    assert (found.issuer, found.subject, found.method) == ("certificate", TRAINER, "certificate")
    assert found.attributes == {"team": "ml", "customer_id": "trainer", "project": "assistant"}
    assert (found.scopes, found.roles, found.credential_id) == (frozenset({"llm"}), frozenset(), "")
    assert found.expires_at == NOW + 3600


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("client.example.com", "client.example.com"),
        ("Client.Example.COM", "client.example.com"),
        ("a.partner.example.com", "a.partner.example.com"),
    ],
)
async def test_a_dns_name_is_an_identity(name: str, subject: str) -> None:
    """A DNS name counts in any case; `*.` of an entry is one label."""
    assert (await identity(showing(workload(dns=["other.test", name])))).subject == subject


@pytest.mark.parametrize(
    "names",
    [
        {"dns": ["partner.example.com"]},
        {"dns": ["a.b.partner.example.com"]},
        {"dns": ["*.partner.example.com"]},
        {"dns": [".partner.example.com"]},
        {"dns": ["client.example.com.evil.test"]},
        {"dns": ["spiffe.prod.example"]},
        {"uris": ["https://client.example.com"]},
        {"uris": ["client.example.com"]},
        {"subject": "client.example.com"},
        {"subject": TRAINER},
        {"uris": ["spiffe://other.example/ns/ml/sa/trainer"]},
        {},
    ],
)
async def test_other_names_are_nobodys(names: dict[str, Any]) -> None:
    """A name of another type, a subject, a certificate's own wildcard: not mine, ask the next."""
    assert await asked(showing(workload(**names))) is None


@pytest.mark.parametrize(
    ("certificate", "detail"),
    [
        (workload([TRAINER, "https://x.test"]), "another URI"),
        (workload([TRAINER, EDGE]), "another URI"),
        (workload(["spiffe://prod.example"]), "not a SPIFFE id"),
        (workload(["SPIFFE://prod.example/ns/ml/sa/trainer"]), "not a SPIFFE id"),
        (workload(["spiffe://prod.example/ns/%6dl/sa/x"], ["client.example.com"]), "not a SPIFFE id"),
        (workload([TRAINER], extensions=[x509.BasicConstraints(ca=True, path_length=None)]), "of an authority"),
        (
            workload([TRAINER], extensions=[x509.KeyUsage(*(flag == 5 for flag in range(9)))]),
            "of an authority",
        ),
    ],
)
async def test_a_certificate_that_breaks_the_rules_is_refused(certificate: Workload, detail: str) -> None:
    """More than one URI beside a SPIFFE id, a wrong one, or one of an authority is refused, whatever else it says."""
    found = await refusal(showing(certificate))
    assert found.reason is Reason.CERTIFICATE_MALFORMED
    assert detail in found.detail


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "%",
        "-----BEGIN%20CERTIFICATE-----%0AAAAA%0A-----END%20CERTIFICATE-----%0A",
        workload([TRAINER]).passed_on[:-80],
        workload([TRAINER]).passed_on * 2,
        "x" * 20_000,
    ],
)
async def test_what_is_no_certificate_is_refused(text: str) -> None:
    """Half a certificate, two, none, or one too long is refused: a gateway that says so does not say who asks."""
    assert (await refusal(Peer("", TRAINER, text))).reason is Reason.CERTIFICATE_MALFORMED


async def test_a_certificate_ends() -> None:
    """Though its connection lives on, a certificate is refused from its end, known or not."""
    certificate = workload([TRAINER])
    peers = PeerCertificates(RULES)
    request = Request("POST", "/", "", {}, peer=showing(certificate))
    clock = iter((NOW, NOW + 3599, NOW + 3600, NOW + 9999))
    for due in (Identity, Identity, Denied, Denied):
        assert isinstance(await peers.authenticate(request, lambda: next(clock), lambda: None), due)
    assert (await refusal(showing(certificate), now=NOW + 3600)).detail == "its time is over"


async def test_a_known_certificate_is_the_same_identity() -> None:
    """It is parsed once; another one with the same names is another's."""
    peers = PeerCertificates(RULES)
    one, other = (Request("POST", "/", "", {}, peer=showing(workload([TRAINER]))) for _ in range(2))
    found = [await peers.authenticate(request, lambda: NOW, lambda: None) for request in (one, one, other)]
    assert found[0] is found[1]
    assert found[0] is not found[2]


async def test_the_first_entry_counts() -> None:
    """Where a certificate has names of two entries, the one that stands first says who it is."""
    both = workload([TRAINER], ["client.example.com"])
    assert (await identity(showing(both))).subject == TRAINER
    request = Request("POST", "/", "", {}, peer=showing(both))
    found = await PeerCertificates(RULES[::-1]).authenticate(request, lambda: NOW, lambda: None)
    assert isinstance(found, Identity)
    assert found.subject == "client.example.com"


async def test_a_name_that_is_no_attribute_is_refused() -> None:
    """A segment too long for a header is refused, and never cut."""
    found = await asked(showing(workload([f"spiffe://prod.example/ns/{'x' * 257}/sa/a"])))
    assert isinstance(found, Denied)
    assert found.reason is Reason.ATTRIBUTE_UNUSABLE


# Without the certificate


@pytest.mark.parametrize(
    ("principal", "subject"),
    [
        (TRAINER, TRAINER),
        ("client.example.com", "client.example.com"),
        ("b.partner.example.com", "b.partner.example.com"),
    ],
)
async def test_a_principal_is_an_identity(principal: str, subject: str) -> None:
    """The one name that Envoy tells is a SPIFFE id or a DNS name; it holds for a day."""
    found = await identity(Peer("10.1.2.3", principal))
    assert (found.subject, found.expires_at) == (subject, NOW + 86_400)


@pytest.mark.parametrize(
    "principal",
    ["CN=client.example.com", "CN=a,O=client.example.com", "https://client.example.com", "*.partner.example.com", ""],
)
async def test_a_subject_is_nobody(principal: str) -> None:
    """A principal that is the certificate's subject, or another kind of URI, never matches."""
    assert await asked(Peer("10.1.2.3", principal)) is None


async def test_a_wrong_principal_is_refused() -> None:
    """A SPIFFE id that is none is refused here too."""
    assert (await refusal(Peer("", "spiffe://prod.example/"))).reason is Reason.CERTIFICATE_MALFORMED


async def test_an_undated_identity_is_renewed() -> None:
    """A principal that is still there after its day is an identity for another one."""
    peers = PeerCertificates(RULES)
    request = Request("POST", "/", "", {}, peer=Peer("", TRAINER))
    first = await peers.authenticate(request, lambda: NOW, lambda: None)
    later = await peers.authenticate(request, lambda: NOW + 90_000, lambda: None)
    assert isinstance(first, Identity)
    assert isinstance(later, Identity)
    assert later.expires_at == NOW + 90_000 + 86_400


# What an earlier proxy says

CLIENT = f'By={EDGE};Hash=00;Subject="";URI={TRAINER}'


@pytest.mark.parametrize(
    ("peer", "hops"),
    [
        (Peer("192.0.2.1", EDGE), HOPS),
        (Peer("10.9.9.9", ""), Hops((ip_network("10.0.0.0/8"),))),
        (Peer("::ffff:10.9.9.9", ""), Hops((ip_network("10.0.0.0/8"),))),
        (Peer("2001:db8::7", ""), Hops((ip_network("2001:db8::/32"),))),
    ],
)
async def test_a_trusted_hop_is_believed(peer: Peer, hops: Hops) -> None:
    """By its principal or its address, also where that is IPv4 in IPv6."""
    assert (await identity(peer, hops=hops, header=CLIENT)).subject == TRAINER


@pytest.mark.parametrize(
    "peer", [Peer(), Peer("10.1.2.3"), Peer("10.1.2.3", f"{EDGE}/x"), Peer("not an address", "CN=x")]
)
async def test_nobody_else_is(peer: Peer) -> None:
    """From anybody else the header is what a client wrote: it is as if it were not there, however it is written."""
    for header in (CLIENT, 'Hash=00;Subject="CN=admin"', "nonsense", "URI=a,URI=b"):
        assert await asked(peer, header=header) is None
    own = await identity(Peer("10.1.2.3", "client.example.com"), header=CLIENT)
    assert own.subject == "client.example.com"


async def test_a_hop_is_never_its_client() -> None:
    """A client without a certificate does not become the proxy that asks for it, though an entry has its name."""
    assert await asked(Peer("10.1.2.3", EDGE, workload([EDGE]).passed_on)) is None
    assert (await identity(Peer("10.1.2.3", EDGE), hops=Hops())).subject == EDGE


async def test_a_certificate_in_the_header_counts_alone() -> None:
    """Where the certificate is passed on, its names and its end count, and not what stands beside it."""
    header = f'Hash=00;Cert="{workload(dns=["client.example.com"]).passed_on}";URI={TRAINER}'
    found = await identity(Peer("", EDGE), header=header)
    assert (found.subject, found.expires_at) == ("client.example.com", NOW + 3600)
    assert (await refusal(Peer("", EDGE), header=header, now=NOW + 3600)).detail == "its time is over"


@pytest.mark.parametrize(
    "header",
    [
        f"{CLIENT},{CLIENT}",
        "",
        "nonsense",
        f"{CLIENT};URI={EDGE}",
        'Cert="x"',
        f"Hash={'0' * 20_000}",
        "URI=spiffe://x",
    ],
)
async def test_a_trusted_hop_has_one_thing_to_say(header: str) -> None:
    """A chain, a header with another reading, or a certificate that breaks the rules is refused."""
    assert (await refusal(Peer("", EDGE), header=header)).reason is Reason.CERTIFICATE_MALFORMED


async def test_a_header_that_came_twice_is_refused() -> None:
    """Two headers are two answers."""
    found = await refusal(Peer("", EDGE), header=CLIENT, repeated=True)
    assert found.detail == "x-forwarded-client-cert twice"


async def test_nothing_that_came_is_in_a_refusal() -> None:
    """What a refusal says of itself holds nothing of what was sent."""
    for header in ("sEcReT", 'Hash="sEcReT";Hash=""', "URI=spiffe://sEcReT", 'Cert="sEcReT"'):
        assert "sEcReT" not in str(await refusal(Peer("", EDGE), header=header))


PEERS = PeerCertificates(RULES, HOPS)


@given(st.text(max_size=200))
async def test_no_text_does_harm(text: str) -> None:
    """Whatever a gateway says, there is an answer."""
    for peer in (Peer("", text), Peer("", "x", text), Peer(text, EDGE)):
        request = Request("POST", "/", "", {"x-forwarded-client-cert": text.encode()}, peer=peer)
        found = await PEERS.authenticate(request, lambda: NOW, lambda: None)
        assert found is None or isinstance(found, Denied | Identity)


DER = workload([TRAINER], ["client.example.com"]).certificate.public_bytes(Encoding.DER)


@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
async def test_no_certificate_does_harm(place: int, change: int) -> None:
    """A certificate with one byte changed, anywhere, has an answer too."""
    changed = bytearray(DER)
    changed[place] ^= change
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(changed) + b"-----END CERTIFICATE-----\n"
    request = Request("POST", "/", "", {}, peer=Peer("", "x", quote(pem)))
    found = await PEERS.authenticate(request, lambda: NOW, lambda: None)
    assert found is None or isinstance(found, Denied | Identity)
