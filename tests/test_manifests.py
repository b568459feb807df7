"""What `kubectl apply -k` sends for each gateway is valid, hardened, and of one piece."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # Two calls of it do not need stubs.
import kubernetes_validate
import pytest
import yaml

from genops_extauth.config import Config, load
from manifests import DEPLOY, GATEWAYS, VARIANTS, Manifest, build, fields, identify, of_kind, one, read

CRDS = Path(__file__).parents[2] / "shared" / "crds"
KUBERNETES = ("1.30.0", kubernetes_validate.latest_version())  # Of its supported ones the oldest we aim at, the newest.
CORE_GROUPS = ("", "apps", "policy", "networking.k8s.io")

BUILT = {gateway: build(DEPLOY / gateway) for gateway in GATEWAYS}
ALL = {f"{gateway}-{'-'.join(identify(document))}": document for gateway in GATEWAYS for document in BUILT[gateway]} | {
    f"variant-{'-'.join(identify(document))}": document for path in VARIANTS for document in read(path)
}
WORKLOADS = {name: document for name, document in ALL.items() if document["kind"] in ("Deployment", "StatefulSet")}
each_gateway = pytest.mark.parametrize("gateway", GATEWAYS)
each_workload = pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)


def is_core(document: Manifest) -> bool:
    return str(document["apiVersion"]).rpartition("/")[0] in CORE_GROUPS


each_core = pytest.mark.parametrize("document", [pytest.param(d, id=name) for name, d in ALL.items() if is_core(d)])
each_custom = pytest.mark.parametrize(
    "document", [pytest.param(d, id=name) for name, d in ALL.items() if not is_core(d)]
)


@cache
def crd_schema(name: str, version: str) -> Manifest:
    (crd,) = read(CRDS / f"{name}.yaml")
    (served,) = (v for v in crd["spec"]["versions"] if v["name"] == version and v["served"])
    schema: Manifest = closed(served["schema"]["openAPIV3Schema"])
    for every in ("apiVersion", "kind", "metadata"):  # Every object has them, and some CRDs do not say so.
        schema["properties"].setdefault(every, {})
    return schema


def closed(schema: Any) -> Any:
    """Refuse what the API server would drop in silence: fields that the schema does not know."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    new = {name: closed(inner) for name, inner in schema.items()}
    if new.get("x-kubernetes-int-or-string") is True:
        new.pop("type", None)
    if (
        isinstance(new.get("properties"), dict)
        and "type" in new
        and not new.get("x-kubernetes-preserve-unknown-fields")
    ):
        new.setdefault("additionalProperties", False)
    return new


@each_custom
def test_custom_resources_are_what_their_crds_say(document: Manifest) -> None:
    """Every custom resource fits the schema of its CRD, with no field that the API server would drop."""
    if not CRDS.is_dir():
        pytest.skip("the CRDs are not part of the repository, and are not beside it")
    experimental = ".experimental" if "ExternalAuth" in fields(document, "type") else ""
    schema = crd_schema(document["kind"] + experimental, document["apiVersion"].rpartition("/")[2])
    jsonschema.validate(document, schema)


def test_a_field_that_no_crd_knows_is_found() -> None:
    """The check above sees a misspelt field, which an API server only warns of."""
    if not CRDS.is_dir():
        pytest.skip("the CRDs are not part of the repository, and are not beside it")
    service = one(BUILT["ambassador"], "AuthService")
    misspelt = {**service, "spec": {**service["spec"], "failure_mode_alow": False}}
    with pytest.raises(jsonschema.ValidationError, match="failure_mode_alow"):
        jsonschema.validate(misspelt, crd_schema("AuthService", "v3alpha1"))


@pytest.mark.parametrize("version", KUBERNETES)
@each_core
def test_core_resources_are_what_kubernetes_says(document: Manifest, version: str) -> None:
    """Every core resource fits the schema of its kind, with no field that it does not know."""
    kubernetes_validate.validate(document, version, strict=True)


@each_gateway
def test_kustomize_builds_what_these_tests_read(gateway: str) -> None:
    """These tests read the manifests as kustomize builds them."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; its kustomize judges manifests.build")
    printed = subprocess.run(["kubectl", "kustomize", DEPLOY / gateway], capture_output=True, check=True).stdout
    assert sorted(yaml.safe_load_all(printed), key=identify) == sorted(BUILT[gateway], key=identify)


@each_gateway
def test_every_gateway_gets_the_same_sidecar(gateway: str) -> None:
    """A gateway's folder adds to the base, and replaces nothing of it but the sidecar's configuration."""
    replaceable = ("ConfigMap", "genops", "genops-extauth")
    built = {identify(document): document for document in BUILT[gateway]}
    for document in build(DEPLOY / "base"):
        assert identify(document) in built
        assert built[identify(document)] == document or identify(document) == replaceable


def selected(gateway: str, labels: dict[str, str]) -> list[Manifest]:
    """List the pod templates that a selector of the namespace `genops` matches."""
    workloads = of_kind(BUILT[gateway], "Deployment") + of_kind(BUILT[gateway], "StatefulSet")
    pods: list[Manifest] = [workload["spec"]["template"] for workload in workloads]
    return [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]


def port_names(pod: Manifest) -> set[str]:
    return {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}


@each_gateway
def test_services_reach_their_pods(gateway: str) -> None:
    """Every Service selects one kind of pod, and forwards to ports which that pod has."""
    for service in of_kind(BUILT[gateway], "Service"):
        (pod,) = selected(gateway, service["spec"]["selector"])
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= port_names(pod)


@each_gateway
def test_selectors_select(gateway: str) -> None:
    """Every workload, disruption budget, spread constraint and network policy selects a pod that exists."""
    for document in BUILT[gateway]:
        if document["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            assert selected(gateway, document["spec"]["selector"]["matchLabels"])
        if document["kind"] == "NetworkPolicy":
            assert selected(gateway, document["spec"]["podSelector"]["matchLabels"])
        for constraint in (each for spread in fields(document, "topologySpreadConstraints") for each in spread):
            assert selected(gateway, constraint["labelSelector"]["matchLabels"])


@each_workload
def test_every_pod_is_hardened(workload: Manifest) -> None:
    """No pod runs as root, writes to its root file system, keeps a capability, or holds a token of the API server."""
    pod = workload["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 10_000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@each_workload
def test_every_container_has_bounds_probes_and_a_version(workload: Manifest) -> None:
    """Every container has the resources of the product's brief, probes on ports it has, and an image that stays put."""
    for container in workload["spec"]["template"]["spec"]["containers"]:
        assert container["resources"] == {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "500m", "memory": "512Mi"},
        }
        probes = {name: probe for name, probe in container.items() if name.endswith("Probe")}
        assert {"livenessProbe", "readinessProbe"} <= probes.keys()
        named = {
            next(check["port"] for check in probe.values() if isinstance(check, dict)) for probe in probes.values()
        }
        assert named <= {port["name"] for port in container["ports"]}
        assert any(digit.isdigit() for digit in container["image"].partition(":")[2])


@each_gateway
def test_one_replica_may_go_and_the_other_answers(gateway: str) -> None:
    """Of the sidecar's two replicas neither a drained node nor a rollout takes both."""
    deployment = one(BUILT[gateway], "Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert one(BUILT[gateway], "PodDisruptionBudget", "genops-extauth")["spec"]["maxUnavailable"] == 1


def settings(gateway: str, folder: Path) -> Config:
    """Load the genops.yaml of a gateway's ConfigMap, with the environment that its Deployment gives it."""
    path = folder / f"{gateway}.yaml"
    path.write_text(one(BUILT[gateway], "ConfigMap", "genops-extauth")["data"]["genops.yaml"])
    (container,) = one(BUILT[gateway], "Deployment")["spec"]["template"]["spec"]["containers"]
    return load(path, {variable["name"]: "example" for variable in container["env"]})


@each_gateway
def test_the_shipped_configuration_loads(gateway: str, tmp_path: Path) -> None:
    """Every genops.yaml that ships is one that the sidecar takes, and listens where the manifests say."""
    loaded = settings(gateway, tmp_path)
    (container,) = one(BUILT[gateway], "Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (str(loaded.server.grpc), str(loaded.server.http)) == (
        f"0.0.0.0:{ports['grpc']}",
        f"0.0.0.0:{ports['http']}",
    )
    services = {
        (d["metadata"]["name"], port["port"]) for d in of_kind(BUILT[gateway], "Service") for port in d["spec"]["ports"]
    }
    name, _, port = loaded.store.url.removeprefix("redis://").removesuffix("/0").partition(":")
    assert (name.removesuffix(".genops"), int(port)) in services


@each_gateway
def test_the_kubelet_waits_for_the_drain(gateway: str, tmp_path: Path) -> None:
    """A pod is killed only after it has drained, and it drains for longer than gateways take to learn of it."""
    server = settings(gateway, tmp_path).server
    pod = one(BUILT[gateway], "Deployment")["spec"]["template"]["spec"]
    learning = 1 + 5 + 5  # seconds: EndpointSlice, CoreDNS's TTL, Envoy's dns_refresh_rate
    assert learning < server.drain_delay
    assert server.drain_delay + server.shutdown_grace < pod["terminationGracePeriodSeconds"]


def test_shipped_configurations_differ_in_one_limit() -> None:
    """Emissary's genops.yaml is the base's, but for the anonymous limit and the comments on it."""
    base, emissary = (yaml.safe_load((DEPLOY / name / "genops.yaml").read_text()) for name in ("base", "ambassador"))
    assert base["rate_limits"].pop("anonymous") != emissary["rate_limits"].pop("anonymous")
    assert base == emissary


@each_gateway
def test_only_the_gateway_reaches_grpc(gateway: str) -> None:
    """One rule admits to the sidecar's gRPC port: from pods of one label in one namespace."""
    policies = of_kind(BUILT[gateway], "NetworkPolicy")
    rules = [
        rule
        for policy in policies
        if policy["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "genops-extauth"}
        for rule in policy["spec"].get("ingress", [])
    ]
    assert all(rule["from"] and rule["ports"] for rule in rules)
    (admitting,) = (rule for rule in rules if {"port": "grpc"} in rule["ports"])
    (peer,) = admitting["from"]
    assert peer["namespaceSelector"]["matchLabels"].keys() == {"kubernetes.io/metadata.name"}
    assert peer["podSelector"]["matchLabels"]


@each_gateway
def test_only_the_sidecar_reaches_the_store(gateway: str) -> None:
    """The store is spoken to by the sidecar's pods, and speaks to nobody."""
    policy = one(BUILT[gateway], "NetworkPolicy", "genops-redis")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert "egress" not in policy
    sidecar = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "genops-extauth"}}}
    assert [(rule["from"], rule["ports"]) for rule in policy["ingress"]] == [([sidecar], [{"port": "redis"}])]
