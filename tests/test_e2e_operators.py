"""What operators see of a running sidecar, and what nobody may."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

import minting
from gateway import Gateway, envoy, upstream
from sidecar import KEY, TRANSPORTS, Sidecar, failure, folder, serving, settings, token
from stores import VALKEY, Server, eventually, free_port, running

PASSWORD = "hunter2-of-the-store"
PREMIUM = {"customer_tier": "premium", "customer_id": "acme"}
TIERS = {"free": {"limit": "10/day"}, "premium": {"limit": "100000/hour", "outage_allowance": 0}}


@pytest.fixture(scope="module", params=TRANSPORTS)
def sidecar(request: pytest.FixtureRequest) -> Iterator[Sidecar]:
    with serving(settings(server={"transport": request.param})) as started:
        yield started


def test_it_is_alive_and_ready(sidecar: Sidecar) -> None:
    """Probes find it alive and ready, with the state of each part."""
    assert sidecar.get("/healthz") == (200, "ok\n")
    status, body = sidecar.get("/readyz")
    assert status == 200
    assert '"ready": true' in body
    assert '"identity": "ready"' in body
    assert '"rate_limit": "ready"' in body


def test_everything_else_is_not_there(sidecar: Sidecar) -> None:
    """The HTTP port answers no other question."""
    assert [sidecar.get(path)[0] for path in ("/", "/metrics/", "/verify", "/healthz/../metrics")] == [404] * 4


def test_an_unknown_service_has_no_health(sidecar: Sidecar) -> None:
    """Asked for a service that it does not have, health says NOT_FOUND (grpc.health.v1)."""
    with pytest.raises(grpc.RpcError) as raised:
        sidecar.health("envoy.service.accesslog.v3.AccessLogService")
    assert failure(raised.value) is grpc.StatusCode.NOT_FOUND


def test_decisions_are_counted_and_told(sidecar: Sidecar) -> None:
    """Each decision is counted by what it was, and told in one line; labels name no customer."""
    count = 'genops_check_total{reason="%s",verdict="%s"}'
    series = (
        count % ("", "allowed"),
        count % ("credentials_missing", "denied"),
        'genops_rate_limit_total{code="ok",tier="free"}',
        'genops_rate_limit_total{code="over_limit",tier="free"}',
        'genops_rate_limit_total{code="ok",tier="premium"}',
    )
    before = [sidecar.metric(each) for each in series]
    with upstream() as service, envoy(service, sidecar.grpc) as gateway:
        statuses = [gateway.get(token=token(customer_id="tiny", customer_tier="free")).status for _ in range(6)]
        statuses += [gateway.get(token=token(**PREMIUM)).status, gateway.get("/quiet").status]
    assert statuses == [200] * 5 + [429, 200, 401]
    assert [sidecar.metric(each) - was for each, was in zip(series, before, strict=True)] == [7, 1, 5, 1, 1]
    eventually(lambda: [line for line in sidecar.said("check") if line["path"] == "/quiet"] != [])
    (line,) = [line for line in sidecar.said("check") if line["path"] == "/quiet"]
    assert (line["level"], line["verdict"], line["reason"]) == ("info", "denied", "credentials_missing")
    (line,) = [line for line in sidecar.said("rate_limit") if line["code"] == "over_limit"]
    assert (line["level"], line["tier"], line["limit"]) == ("info", "free", "10/day")
    assert "tiny" not in sidecar.get("/metrics")[1]


def test_metrics_are_read_by_prometheus(sidecar: Sidecar) -> None:
    """Metrics are in Prometheus's text format; all begin with our name, or with that of envoyproxy/ratelimit's own."""
    families = {family.name for family in text_string_to_metric_families(sidecar.get("/metrics")[1])}
    assert {name for name in families if not name.startswith(("genops_", "process_", "ratelimit_"))} == set()
    assert {"genops_check", "genops_rate_limit", "genops_build_info", "genops_store_errors"} <= families


class Secrets:
    """What must not be seen, and where it was looked for."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.seen: list[str] = []

    def token(self, credential: str) -> str:
        self.tokens.append(credential)
        return credential

    def leaks(self) -> list[str]:
        """The secrets, or parts of them that are secret, that were seen."""
        parts = [part for credential in self.tokens for part in credential.split(".")[1:] if part]
        return [needle for needle in (PASSWORD, *parts) if any(needle in place for place in self.seen)]


@pytest.mark.parametrize("how", ["environment", "file", "url"])
def test_no_secret_is_shown(how: str) -> None:
    """Tokens and the store's password appear in no log line, metric, answer or argument, whatever goes wrong."""
    secrets = Secrets()
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(running(VALKEY, "--requirepass", PASSWORD, port=free_port()))
        configured, environ = known(how, store, stack.enter_context(folder()))
        sidecar = stack.enter_context(serving(configured, **environ))
        gateway = stack.enter_context(envoy(stack.enter_context(upstream()), sidecar.grpc))
        assert gateway.get(token=secrets.token(token(**PREMIUM))).status == 200
        secrets.seen += refusals(gateway, secrets)
        with store.client(password=PASSWORD) as client:
            client.config_set("requirepass", "another")
            client.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: sidecar.said("store_unavailable") != [])
        secrets.seen += told_without_store(gateway, secrets)
        store.stop()
        secrets.seen += told_without_store(gateway, secrets)
        sidecar.configure(settings(store={"password": PASSWORD}))
        eventually(lambda: sidecar.said("config_refused") != [])
        secrets.seen += [sidecar.get(path)[1] for path in ("/readyz", "/metrics")]
        secrets.seen.append(Path(f"/proc/{sidecar.pid}/cmdline").read_text())
        sidecar.stop()
        secrets.seen += [sidecar.log, sidecar.errors]
        # What could have told them was there.
        assert "token_signature_wrong" in sidecar.log
        assert "refused: the store" in sidecar.log
        assert secrets.leaks() == []


def known(how: str, store: Server, place: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A configuration and an environment that tell the sidecar the store's password in one of the ways there are.

    Nothing passes without the store: the service behind the gateway would answer with the token that it got.
    """
    if how == "url":
        return settings(tiers=TIERS), {"REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:{store.port}/0"}
    if how == "environment":
        return settings(tiers=TIERS, store={"url": store.url}), {"REDIS_PASSWORD": PASSWORD}
    (place / "password").write_text(PASSWORD)
    return settings(tiers=TIERS, store={"url": store.url, "password_file": str(place / "password")}), {}


def told_without_store(gateway: Gateway, secrets: Secrets) -> list[str]:
    """What is answered to a customer who may have nothing while the store is away."""
    answer = gateway.get(token=secrets.token(token(**PREMIUM)))
    assert answer.status == 429
    return [f"{answer.headers} {answer.body.decode()}"]


def refusals(gateway: Gateway, secrets: Secrets) -> list[str]:
    """What is answered to requests with a token that is bad, or in a wrong place."""
    good = secrets.token(token(**PREMIUM))
    stranger = minting.KeyPair(KEY.kid, KEY.algorithm, minting.ed_pair("stranger").private)
    bad = [secrets.token(each) for each in (token(exp=1), token(stranger), token(aud="other"), token(project=None))]
    answers = [gateway.get(token=each) for each in bad]
    answers += [
        gateway.get(f"/v1?access_token={good}"),
        gateway.get(f"/v1/{good}/x"),
        gateway.get("/v1", headers=[("authorization", f"Basic {good}")]),
        gateway.get("/v1", headers=[("authorization", good)]),
        gateway.get("/v1", headers=[("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")]),
        gateway.get("/v1", headers=[("x-genops-team", good), ("x-request-id", good), ("cookie", good)]),
    ]
    assert {answer.status for answer in answers} == {401, 403}
    return [f"{answer.headers} {answer.body.decode()}" for answer in answers]
