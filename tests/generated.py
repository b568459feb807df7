"""The parts of the pages that are made from the code. `python tests/generated.py` writes them anew."""

import ast
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from genops_extauth import config
from ratelimit_table import variables_table

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "src" / "genops_extauth"

GROUPS: Mapping[str, tuple[str, str]] = {
    "commands": (
        "commands",
        """
        cli command_line terminal demo demo_child demo_envoy demo_screen demo_tour explain decision_checks health_probe
        migrate keys_command key_options key_listing revocations_command
        """,
    ),
    "life": ("life of the process", "app generations given_limits health reload server server_tls storage"),
    "faces": (
        "faces",
        """
        grpc_face check_messages refusals refusal_table limit_messages limit_json limit_headers wire http_face
        debug_face
        """,
    ),
    "management": ("management server", "xds xds_channel xds_messages ratelimit_resources"),
    "telemetry": ("telemetry", "telemetry metrics counting limit_counters limit_exposition sampler logs log_sink"),
    "keys": ("keys of issuers", "jwks discovery key_fetch"),
    "credentials": (
        "credentials in the store",
        "credential_store key_store revocation_store revocation_feed store_client",
    ),
    "before": ("before the store", "denials leases outage allowance"),
    "store": (
        "store",
        """
        store_choice redis_store redis_node redis_queue redis_batch redis_debts redis_habits redis_link redis_faults
        breaker deadlines sentinel cluster cluster_map spread store_statistics embedded embedded_home
        """,
    ),
    "configuration": (
        "configuration",
        """
        config summary identity_summary settings sections store_sections limit_sections identity_section issuers
        issuer_keys claim_sections api_key_section certificate_section revocation_section route_sections demand_sections
        certificates
        """,
    ),
    "reference": (
        "envoyproxy/ratelimit's files and environment",
        """
        ratelimit_files ratelimit_folder ratelimit_reader ratelimit_domain ratelimit_limit ratelimit_keys
        ratelimit_meanings ratelimit_environment ratelimit_variables ratelimit_values ratelimit_store variables
        differences
        """,
    ),
    "reading": (
        "reading what is configured",
        "fields environment problems sources strict_yaml yaml_events go_yaml plain_yaml",
    ),
    "decision": ("decision: no I/O, no clock", "gate"),
    "identity": (
        "identity: no I/O, no clock",
        "bearer tokens trust claims claim_rules word_sets jose keyset publickey shared_secrets secure_uri cache",
    ),
    "api_keys": (
        "API keys",
        """
        apikeys key_lifecycle key_lookup key_places key_guesses key_usage key_records key_files key_operations
        key_delivery key_import private_files
        """,
    ),
    "certificates": ("certificates: no I/O, no clock", "peer_certificates peer_names spiffe xfcc"),
    "policy": (
        "policy: no I/O, no clock",
        "policy routes paths hosts body_rules reserved_headers strict_json revocations",
    ),
    "limits": (
        "limits: no I/O, no clock",
        """
        quota limits limit_compiler limit_rules limit_keys wildcards tiers declared hits bucket window calendars journal
        """,
    ),
    "nouns": ("nouns", "model reasons notation store_address"),
}
"""The boxes of the diagram: title and modules."""


def members() -> dict[str, str]:
    """The box of each module."""
    return {module: name for name, (_, modules) in GROUPS.items() for module in modules.split()}


def modules() -> dict[str, ast.Module]:
    """All modules of the package, parsed, by name."""
    return {path.stem: ast.parse(path.read_text()) for path in sorted(PACKAGE.glob("*.py")) if path.stem[0] != "_"}


def imports(tree: ast.Module) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "genops_extauth":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {name.split(".")[1] for name in names if name.startswith("genops_extauth.")}
    return {name for name in found if name[0] != "_"}


def contracts() -> list[dict[str, Any]]:
    """The contracts of import-linter."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    found: list[dict[str, Any]] = project["tool"]["importlinter"]["contracts"]
    return found


def rules() -> str:
    """List what the contracts demand."""
    return "\n".join(f"- {contract['name']}." for contract in contracts())


def layers() -> list[list[str]]:
    """The layers of import-linter, top first."""
    (found,) = (contract["layers"] for contract in contracts() if contract["type"] == "layers")
    return [layer.split(" | ") for layer in found]


def diagram() -> str:
    """Draw which box imports which."""
    box = members()
    arrows = {(box[name], box[other]) for name, tree in modules().items() for other in imports(tree)}
    boxes = [f'    {name}["<b>{title}</b><br>{_wrapped(inside)}"]' for name, (title, inside) in GROUPS.items()]
    drawn = [f"    {start} --> {end}" for start, end in sorted(arrows) if start != end]
    return "\n".join(["```mermaid", "flowchart TD", *boxes, *drawn, "```"])


def _wrapped(names: str) -> str:
    words = names.split()
    return "<br>".join(", ".join(words[start : start + 4]) for start in range(0, len(words), 4))


def layer_table() -> str:
    """List the modules by layer, each with the first line of its docstring."""
    known = modules()
    rows = [
        f"| {depth} | `{name}` | {_first_line(known[name])} |"
        for depth, layer in enumerate(layers(), start=1)
        for name in layer
    ]
    return "\n".join(["| layer | module | what it is |", "|---|---|---|", *rows])


def _first_line(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").partition("\n")[0].replace("``", "`")


def settings_table() -> str:
    """List every key of the configuration, with its default and its description in the JSON schema."""
    schema = config.json_schema()
    rows = [
        f"| `{path}` | {_default(field)} | {_described(field)} |" for path, field in keys(schema, schema["$defs"], "")
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def keys(section: Mapping[str, Any], known: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Walk every key that a section of the schema may hold, with its whole path."""
    for name, field in section.get("properties", {}).items():
        inner = _section(field, known)
        said = {"description": inner.get("description")} | field | {"required": name in section.get("required", ())}
        yield f"{path}{name}", said
        yield from keys(inner, known, f"{path}{name}.")
        yield from keys(_section(field.get("items"), known), known, f"{path}{name}[].")
        yield from keys(_section(field.get("additionalProperties"), known), known, f"{path}{name}.*.")


def _section(field: object, known: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = next((kind["$ref"] for kind in _kinds(field) if "$ref" in kind), "")
    section: Mapping[str, Any] = known.get(reference.rpartition("/")[2], {})
    return section


def _kinds(field: object) -> list[dict[str, Any]]:
    """What may stand there: what the field says, or one of several."""
    if not isinstance(field, dict):
        return []
    kinds: list[dict[str, Any]] = field.get("anyOf", [field])
    return kinds


def _default(field: Mapping[str, Any]) -> str:
    if field["required"]:
        return "**required**"
    if field.get("default") is None:
        return "-"
    return f"`{_spelled(field['default'])}`"


def _spelled(value: Any) -> str:
    """Write a value in YAML's flow style, as the example does."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_spelled(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_spelled, value)) + "]"
    return value if isinstance(value, str) and value else json.dumps(value)


def _described(field: Mapping[str, Any]) -> str:
    words = [field["description"].partition("\n\n")[0].replace("``", "`")]
    words += [f"One of {', '.join(kind['enum'])}." for kind in _kinds(field) if "enum" in kind]
    return " ".join(words).replace("|", "\\|")


PARTS = {
    "docs/architecture.md": {"diagram": diagram, "rules": rules, "layers": layer_table},
    "docs/configuration.md": {"settings": settings_table},
    "docs/ratelimit-environment.md": {"variables": variables_table},
}
"""The pages with their parts, and what makes each."""


def filled(page: str, text: str) -> str:
    """Fill in the parts of a page: what stands between ``<!-- NAME: generated -->`` and ``<!-- NAME: end -->``."""
    for name, make in PARTS[page].items():
        begin, end = f"<!-- {name}: generated by tests/generated.py -->", f"<!-- {name}: end -->"
        assert (text.count(begin), text.count(end)) == (1, 1), f"{page} must have one part {name}"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{make()}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    for page in PARTS:
        path = REPOSITORY / page
        path.write_text(filled(page, path.read_text()))
