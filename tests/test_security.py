"""What docs/security.md promises, where no other test holds it."""

import pytest

from genops_extauth.model import Request
from genops_extauth.paths import pattern
from genops_extauth.policy import Policy
from genops_extauth.route_sections import Route as RouteSection
from genops_extauth.routes import Route

PROBES = ("kube-probe/1.30", "GoogleHC/1.0", "ELB-HealthChecker/2.0", "Envoy/HC")


@pytest.mark.parametrize("user_agent", PROBES)
def test_no_user_agent_is_an_exemption(user_agent: str) -> None:
    """Whoever calls itself a health check is asked for a credential as everybody is, but on the open route."""
    policy = Policy(routes=[Route(methods=frozenset({"GET"}), path=pattern("/healthz"), asks=False)])
    asked = Request("GET", "/v1/models", "ai.example.com", {"user-agent": user_agent.encode()})
    assert not policy.unasked(policy.route(asked), asked)
    healthy = asked._replace(path="/healthz")
    assert policy.unasked(policy.route(healthy), healthy)


def test_a_route_asks_for_no_header() -> None:
    """Which route a request takes hangs on host, method, path and what the gateway says, and on no header."""
    matching = RouteSection.model_fields.keys() - {"name", "auth", "require", "cors", "body", "denials"}
    assert matching == {"hosts", "methods", "path", "context", "escaped_slashes"}
