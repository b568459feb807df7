"""Certificates of clients, through real Envoys: the one that asks, and one before it."""

import contextlib
import http.client
import json
import ssl
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from gateway import Answer, Gateway, Upstream, envoy, ingress, upstream
from generated import REPOSITORY
from manifests import Manifest
from pages import blocks
from sidecar import serving, settings, token
from workloads import Workload, authority, workload

TRAINER, EDGE = "spiffe://prod.example/ns/ml/sa/trainer", "spiffe://prod.example/ns/edge/sa/gateway"
DOCUMENTED = json.loads(blocks(REPOSITORY / "docs" / "certificates.md", "json")[0].text)
CERTIFICATES = {
    "xfcc_from": [EDGE],
    "identities": [
        {"spiffe": "spiffe://prod.example/ns/{team}/sa/{customer_id}", "attributes": {"project": "assistant"}},
        {"dns": "client.example.com", "attributes": {"team": "search", "project": "assistant", "customer_id": "c"}},
    ],
}
AUTHORITY = authority(time.time())


def signed(*uris: str, dns: str = "gateway.test", by: Workload = AUTHORITY) -> Workload:
    return workload(uris, [dns], by=by, now=time.time())


@dataclass(frozen=True)
class Files:
    """A folder with the authority, and whose certificates are written into it."""

    folder: Path

    def of(self, who: Workload) -> tuple[str, str]:
        certificate, key = who.written(self.folder, f"{who.certificate.serial_number:x}")
        return str(certificate), str(key)

    @property
    def authority(self) -> str:
        file = self.folder / "authority.pem"
        file.write_bytes(AUTHORITY.pem)
        return str(file)

    def context(self, who: Workload) -> Manifest:
        """A side's TLS: its certificate, and whom it believes."""
        certificate, key = self.of(who)
        return {
            "tls_certificates": [{"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}],
            "validation_context": {"trusted_ca": {"filename": self.authority}},
        }

    def get(self, gateway: Gateway, who: Workload | None, **headers: str) -> Answer:
        """Ask over TLS, with a certificate or without one."""
        trust = ssl.create_default_context(cafile=self.authority)
        trust.check_hostname = False
        if who is not None:
            trust.load_cert_chain(*self.of(who))
        connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, timeout=20, context=trust)
        with contextlib.closing(connection):
            connection.request("GET", "/v1/models", headers={n.replace("_", "-"): v for n, v in headers.items()})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())


@pytest.fixture(scope="module")
def files() -> Iterator[Files]:
    with tempfile.TemporaryDirectory(prefix="certificates-") as name:
        yield Files(Path(name))


@pytest.fixture(scope="module")
def service() -> Iterator[Upstream]:
    with upstream() as found:
        yield found


@pytest.fixture(scope="module")
def gateway(files: Files, service: Upstream) -> Iterator[Gateway]:
    """An Envoy as documented, which leaves the header of the proxy before it as it is."""

    def documented(bootstrap: Manifest) -> None:
        _shows(bootstrap, files.context(signed()))
        ingress(bootstrap).update(DOCUMENTED["http_connection_manager"])
        ingress(bootstrap)["forward_client_cert_details"] = "FORWARD_ONLY"
        (check,) = (each for each in ingress(bootstrap)["http_filters"] if each["name"].endswith("ext_authz"))
        check["typed_config"].update(DOCUMENTED["ext_authz"])

    configured = settings(identity={"certificates": CERTIFICATES})
    with serving(configured) as sidecar, envoy(service, sidecar.grpc, changes=[documented]) as found:
        yield found


@pytest.fixture(scope="module")
def edge(files: Files, gateway: Gateway) -> Iterator[Gateway]:
    """An Envoy before it, which asks nobody, and says whose certificate it saw, if it saw one."""

    def before(bootstrap: Manifest) -> None:
        _shows(bootstrap, files.context(signed()), require_client_certificate=False)
        manager = ingress(bootstrap)
        manager["http_filters"] = manager["http_filters"][-1:]
        manager["forward_client_cert_details"] = "SANITIZE_SET"
        manager["set_current_client_cert_details"] = {"subject": True, "cert": True, "uri": True, "dns": True}
        clusters = bootstrap["static_resources"]["clusters"]
        (cluster,) = (each for each in clusters if each["name"] == "ai-inference")
        cluster["transport_socket"] = _upstream_tls(files.context(signed(EDGE)))

    onward = cast("Upstream", gateway)  # only its port is asked for
    with envoy(onward, "127.0.0.1:1", changes=[before]) as found:
        yield found


def _shows(bootstrap: Manifest, context: Manifest, **changes: bool) -> None:
    """Make its listener one of TLS, as documented but for the files."""
    socket = DOCUMENTED["transport_socket"]
    typed = socket["typed_config"] | {"common_tls_context": context} | changes
    (listener,) = bootstrap["static_resources"]["listeners"]
    listener["filter_chains"][0]["transport_socket"] = socket | {"typed_config": typed}


def _upstream_tls(context: Manifest) -> Manifest:
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": kind, "common_tls_context": context},
    }


def known(answer: Answer) -> dict[str, str]:
    """What the service behind Envoy is told of who asks."""
    assert answer.status == 200, answer.body
    return {name.removeprefix("x-genops-"): value for name, value in answer.arrived if name.startswith("x-genops-")}


ML = {"team": "ml", "project": "assistant", "customer-id": "trainer", "customer-tier": "free"}
SEARCH = {"team": "search", "project": "assistant", "customer-id": "c", "customer-tier": "free"}


def test_a_certificate_says_who_asks(files: Files, gateway: Gateway) -> None:
    """A SPIFFE id, or a DNS name, is the identity that is configured for it."""
    assert known(files.get(gateway, signed(TRAINER))) == ML
    assert known(files.get(gateway, signed(dns="client.example.com"))) == SEARCH


def test_other_certificates_say_nothing(files: Files, gateway: Gateway) -> None:
    """Of the right authority, but with names that are nobody's: who asks is not known."""
    assert files.get(gateway, signed("spiffe://other.example/ns/ml/sa/trainer")).status == 401
    assert files.get(gateway, signed(dns="other.example.com")).status == 401


def test_a_certificate_that_breaks_the_rules_is_refused(files: Files, gateway: Gateway) -> None:
    """Two URIs, of which Envoy itself names the first, are seen in the certificate, and refused."""
    refused = files.get(gateway, signed(TRAINER, "spiffe://prod.example/ns/admin/sa/root"))
    assert (refused.status, refused.json["error"]) == (401, "invalid_certificate")


def test_another_authority_is_the_gateways_matter(files: Files, gateway: Gateway) -> None:
    """A certificate that Envoy does not believe gets no connection."""
    with pytest.raises(OSError):  # an alert, a reset or an end, whichever comes first
        files.get(gateway, signed(TRAINER, by=authority(time.time())))


def test_a_token_goes_before_a_certificate(files: Files, gateway: Gateway) -> None:
    """Where a request has both, the route's order decides; by default the token, and a bad one is not made good."""
    bearer = {"authorization": f"Bearer {token()}"}
    assert known(files.get(gateway, signed(TRAINER), **bearer)) != ML
    assert files.get(gateway, signed(TRAINER), authorization="Bearer nonsense").status == 401


def test_a_client_cannot_write_the_header(files: Files, gateway: Gateway) -> None:
    """From a client that is no trusted proxy the header says nothing, whatever it holds."""
    forged = f"URI={TRAINER}"
    assert known(files.get(gateway, signed(dns="client.example.com"), x_forwarded_client_cert=forged)) == SEARCH
    assert files.get(gateway, signed(dns="other.example.com"), x_forwarded_client_cert=forged).status == 401


def test_a_proxy_before_it_says_who_asks(files: Files, edge: Gateway) -> None:
    """What an Envoy writes of its client's certificate is read; a subject full of quotes adds nothing."""
    assert known(files.get(edge, signed(TRAINER))) == ML
    assert known(files.get(edge, signed(dns="client.example.com"), x_forwarded_client_cert=f"URI={TRAINER}")) == SEARCH
    hostile = workload(dns=["other.example.com"], subject=f'a";URI="{TRAINER}', by=AUTHORITY, now=time.time())
    assert files.get(edge, hostile).status == 401


def test_a_client_is_not_the_proxy(files: Files, edge: Gateway) -> None:
    """A client without a certificate is nobody, though the proxy that asks for it has one that is somebody's."""
    assert files.get(edge, None).status == 401
    assert files.get(edge, None, x_forwarded_client_cert=f"URI={TRAINER}").status == 401


def test_a_chain_is_refused(files: Files, gateway: Gateway) -> None:
    """A trusted proxy that passes on what its own client wrote is not believed."""
    header = f"URI={TRAINER},URI=spiffe://prod.example/ns/x/sa/y"
    refused = files.get(gateway, signed(EDGE), x_forwarded_client_cert=header)
    assert (refused.status, refused.json["error"]) == (401, "invalid_certificate")
    assert known(files.get(gateway, signed(EDGE), x_forwarded_client_cert=f"URI={TRAINER}")) == ML
