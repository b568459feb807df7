"""The manifests of deploy/, as `kubectl apply -k` would send them to the API server."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]

DEPLOY = Path(__file__).parents[1] / "deploy"
GATEWAYS = ("ambassador", "gateway-api", "istio")
VARIANTS = (DEPLOY / "gateway-api" / "external-auth.yaml",)
"""Applied by hand, in place of something that a kustomization holds."""

SERVICE = re.compile(r"\b(?P<name>genops-[a-z]+)\.genops(?:\.svc\.cluster\.local)?(?::(?P<port>\d+))?")


def read(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def build(folder: Path) -> list[Manifest]:
    """Do what kustomize does with the few of its directives that deploy/ uses; any other is an error."""
    (kustomization,) = read(folder / "kustomization.yaml")
    unknown = kustomization.keys() - {"apiVersion", "kind", "resources", "configMapGenerator", "generatorOptions"}
    assert not unknown, f"tests/manifests.py does not know kustomize's {sorted(unknown)}"
    documents: list[Manifest] = []
    for resource in kustomization["resources"]:
        path = (folder / resource).resolve()
        documents += build(path) if path.is_dir() else read(path)
    for generator in kustomization.get("configMapGenerator", []):
        assert kustomization["generatorOptions"] == {"disableNameSuffixHash": True}
        _generate(documents, folder, generator)
    return documents


def _generate(documents: list[Manifest], folder: Path, generator: Manifest) -> None:
    metadata = {"name": generator["name"], "namespace": generator["namespace"]}
    before = [document for document in documents if _is(document, "ConfigMap", **metadata)]
    assert bool(before) == (generator.get("behavior") == "replace"), "replace takes something to replace"
    data = {name: (folder / name).read_text() for name in generator["files"]}
    new = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    documents[:] = [*(document for document in documents if document not in before), new]


def _is(document: Manifest, kind: str, name: str, namespace: str) -> bool:
    metadata = document["metadata"]
    return (document["kind"], metadata["name"], metadata.get("namespace")) == (kind, name, namespace)


def identify(document: Manifest) -> tuple[str, str, str]:
    metadata = document["metadata"]
    return document["kind"], metadata.get("namespace", ""), metadata["name"]


def of_kind(documents: list[Manifest], kind: str) -> list[Manifest]:
    return [document for document in documents if document["kind"] == kind]


def one(documents: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """Return the only document of a kind (and name)."""
    (found,) = (d for d in of_kind(documents, kind) if name in (None, d["metadata"]["name"]))
    return found


def texts(value: Any) -> Iterator[str]:
    """Walk to every string inside a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def fields(value: Any, name: str) -> Iterator[Any]:
    """Walk to the value of every field of this name inside a document."""
    if isinstance(value, dict):
        if name in value:
            yield value[name]
        for inner in value.values():
            yield from fields(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner, name)
