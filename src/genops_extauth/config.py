"""File and environment -> one frozen `Config`, or everything that is wrong with them, at once.

strict_yaml   text -> plain data that knows its lines       fields, notation    what a value may be
environment   variables, laid over that data                sections, issuers   what a section may hold
sources       the files and variables it points to          settings            what must hold between sections
problems      what is wrong, in words
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError
from pydantic.json_schema import JsonSchemaValue

from genops_extauth.environment import Overlay, overlay
from genops_extauth.issuers import Claims, Identity, Issuer, Jwks, Keys
from genops_extauth.notation import Address, Rate, UnixPath
from genops_extauth.problems import MAX_PROBLEMS, ConfigError, Finding, Problem, findings, spelled
from genops_extauth.sections import Governance, Limit, Log, RateLimits, Route, Server, Store
from genops_extauth.settings import Config
from genops_extauth.sources import SourceError, Sources, read
from genops_extauth.strict_yaml import MAX_BYTES, Document, Node, parse

__all__ = [
    "Address",
    "Claims",
    "Config",
    "ConfigError",
    "Governance",
    "Identity",
    "Issuer",
    "Jwks",
    "Keys",
    "Limit",
    "Log",
    "Problem",
    "Rate",
    "RateLimits",
    "Route",
    "Server",
    "Store",
    "UnixPath",
    "json_schema",
    "load",
    "restart_only",
    "summary",
]

_RESTART_ONLY = (
    ("server", "grpc"),
    ("server", "http"),
    ("server", "transport"),
    ("store", "url"),
    ("store", "password"),
    ("store", "timeout"),
    ("server", "drain_delay"),
    ("server", "shutdown_grace"),
    ("log", "level"),
    ("log", "format"),
)


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the configuration from the file at `path`, where there is one, and the environment.

    The files and variables that it points to are read here, and never again. Raises `ConfigError`, with everything
    that is wrong.
    """
    name = str(path or "")
    document = _document(path)
    root = document.root
    plain = root.plain() if root is not None else None
    problems = [Problem(spelled(fault.path), fault.message, name, fault.line) for fault in document.faults]
    if root is None or not isinstance(plain, dict):
        raise ConfigError(tuple(problems) or (Problem("", "write settings here, `identity:` first", name, 1),))
    laid = overlay(plain, environ)
    folder = path.parent if path is not None else Path()
    config, found = _validated(laid, Sources(folder, environ, laid.passwords, frozenset(laid.ignored)))
    problems += [Problem(f"env {variable}", message) for variable, message in laid.complaints]
    problems += [_placed(finding, laid, name, root) for finding in found]
    if config is None or problems:
        raise ConfigError(_ordered(problems))
    return config


def _document(path: Path | None) -> Document:
    """Read the file; an empty one, and none, are an empty mapping."""
    if path is None:
        return Document(Node(1, {}), ())
    try:
        data = read(path, MAX_BYTES)
    except SourceError as error:
        raise ConfigError((Problem("", str(error), str(path)),)) from None
    document = parse(data)
    if document.root is not None and document.root.value is None:
        return replace(document, root=Node(1, {}))
    return document


def _validated(laid: Overlay, sources: Sources) -> tuple[Config | None, list[Finding]]:
    try:
        return Config.model_validate(laid.data, context=sources), []
    except ValidationError as error:
        found = findings(error, Config)
    # The checks between sections ran only if every section was right. Let them see those that are.
    broken = sources.ignored.union(str(finding.path[0]) for finding in found if finding.path)
    whole = {key: value for key, value in laid.data.items() if key not in broken}
    try:
        Config.model_validate(whole, context=replace(sources, ignored=broken))
    except ValidationError as error:
        found += findings(error, Config)
    return None, found


def _placed(finding: Finding, laid: Overlay, name: str, root: Node) -> Problem:
    variable = laid.origin(finding.path)
    if variable is not None:
        return Problem(f"env {variable}", finding.message)
    if not name:
        return Problem(spelled(finding.path), finding.message)
    return finding.at(name, root)


def _ordered(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Each once, in the order of the file; then what the file lacks, then the environment's."""
    distinct = dict.fromkeys(problems)
    found = sorted(distinct, key=lambda problem: (not problem.file, problem.line is None, problem.line or 0))
    if len(found) < MAX_PROBLEMS:
        return tuple(found)
    return (*found[:MAX_PROBLEMS], Problem("", f"these are {MAX_PROBLEMS} problems; there may be more"))


def json_schema() -> JsonSchemaValue:
    """The JSON Schema (2020-12) of the file, for editors."""
    schema = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "genops-extauth"}


def restart_only(old: Config, new: Config) -> tuple[str, ...]:
    """The settings that differ and take effect only after a restart: addresses, the store, the log, how it stops."""
    return tuple(
        f"{section}.{name}"
        for section, name in _RESTART_ONLY
        if getattr(getattr(old, section), name) != getattr(getattr(new, section), name)
    )


def summary(config: Config) -> tuple[str, ...]:
    """What a configuration means, a line for each thing, for whoever has just written it."""
    defaults = ", ".join(f"{name}={value}" for name, value in config.governance.defaults.items())
    return (
        f"listens on {config.server.grpc} (gRPC) and {config.server.http} (HTTP), store {config.store.url}",
        *(_believed(issuer) for issuer in config.identity.jwt),
        f"requires {', '.join(config.governance.required) or 'no attribute'}; defaults {defaults or 'none'}",
        *(f"tier {name}: {_limited(limit)}" for name, limit in config.tiers.items()),
        f"unknown tier: as {config.default_tier}; no identity: {_limited(config.rate_limits.anonymous)} by address",
        *(f"open to everybody: {', '.join(route.methods)} {route.path}" for route in config.routes),
    )


def _believed(issuer: Issuer) -> str:
    keys = issuer.keys
    address = (keys.jwks_uri or "").partition("?")[0]  # a query can hold a credential
    place = address or keys.public_key_file or f"env {keys.public_key_env}"
    granted = "all tiers" if issuer.tiers is None else f"tiers {', '.join(issuer.tiers) or 'none'}"
    prefix = f", customers {issuer.customer_prefix}*" if issuer.customer_prefix else ""
    audiences, algorithms = ", ".join(issuer.audiences), ", ".join(issuer.algorithms)
    return f"believes {issuer.issuer} for {audiences} ({algorithms}, keys from {place}): {granted}{prefix}"


def _limited(limit: Limit) -> str:
    return f"{limit.limit}, {limit.limit.requests if limit.burst is None else limit.burst} at once"
