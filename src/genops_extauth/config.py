"""File and environment -> one frozen `Config`, or everything that is wrong with them, at once.

strict_yaml   text -> plain data that knows its lines       fields, notation    what a value may be
environment   variables, laid over that data                sections, issuers   what a section may hold
sources       the files and variables it points to          settings            what must hold between sections
problems      what is wrong, in words
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError
from pydantic.json_schema import JsonSchemaValue

from genops_extauth.environment import Overlay, overlay
from genops_extauth.identity_section import Identity
from genops_extauth.issuers import Claims, Issuer, Jwks, Keys
from genops_extauth.limit_sections import Limit, RateLimits
from genops_extauth.notation import Address, Rate, UnixPath
from genops_extauth.problems import MAX_PROBLEMS, ConfigError, Finding, Problem, findings, spelled
from genops_extauth.ratelimit_files import Loaded, read_directory
from genops_extauth.ratelimit_meanings import meanings
from genops_extauth.route_sections import Route
from genops_extauth.sections import Governance, Log, Server
from genops_extauth.settings import Config
from genops_extauth.sources import SourceError, Sources, read
from genops_extauth.store_sections import Store
from genops_extauth.strict_yaml import MAX_BYTES, Document, Node, Plain, parse

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
]

Lay = Callable[[Mapping[str, Plain], Mapping[str, str]], Overlay]
"""Lays an environment over the file's data."""

_RESTART_ONLY = (
    ("server", "grpc"),
    ("server", "http"),
    ("server", "debug"),
    ("server", "metrics"),
    ("server", "tls"),
    ("server", "json_limits"),
    ("server", "services"),
    ("server", "transport"),
    ("server", "drain_delay"),
    ("server", "shutdown_grace"),
    ("log", "level"),
    ("log", "format"),
    ("store", "url"),
    ("store", "password"),
    ("store", "sentinel_password"),
    ("store", "tls"),
    ("store", "per_second"),
    ("store", "timeout"),
    ("store", "denial_cache"),
    ("rate_limits", "xds"),
    ("rate_limits", "metric_series"),
)

_PEM_FILES = tuple(
    (*section, name)
    for section in (("store", "tls"), ("rate_limits", "xds"))
    for name in ("ca_file", "cert_file", "key_file")
)
_MAX_PEM_BYTES = 4 * 1024 * 1024
"""The authorities of a Linux distribution are 200 KiB."""


def load(path: Path | None, environ: Mapping[str, str], lay: Lay = overlay) -> Config:
    """Read the configuration from the file at `path`, where there is one, and the environment, as `lay` reads that.

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
    laid = lay(plain, environ)
    folder = path.parent if path is not None else Path()
    limits, unread, wrong = _limits(laid, folder)
    remarks = tuple(map(str, limits.warnings)) + meanings(limits.domains)
    sources = Sources(folder, environ, laid.passwords, frozenset(laid.ignored), limits.domains, remarks)
    config, found = _validated(laid, sources)
    found += [*unread, *_unreadable(laid, folder)]
    problems += [Problem(f"env {variable}", message) for variable, message in laid.complaints]
    problems += [_placed(finding, laid, name, root) for finding in found]
    problems += wrong
    if config is None or problems:
        raise ConfigError(_ordered(problems))
    return config


def _limits(laid: Overlay, folder: Path) -> tuple[Loaded, list[Finding], list[Problem]]:
    """Read the files of ``rate_limits.directory``, whatever else is wrong; tell of the setting, and of the files."""
    section = laid.data.get("rate_limits")
    directory = section.get("directory") if isinstance(section, dict) else None
    if not isinstance(section, dict) or not isinstance(directory, str) or not directory or "\0" in directory:
        return Loaded(()), [], []  # what is wrong with it, its section says
    try:
        return read_directory(folder / directory, merge_domains=section.get("merge_domains") == "true"), [], []
    except ConfigError as error:
        itself = [each for each in error.problems if each.file == str(folder / directory)]
        unread = [Finding(("rate_limits", "directory"), each.message, quotable=True) for each in itself]
        return Loaded(()), unread, [each for each in error.problems if each not in itself]


def _unreadable(laid: Overlay, folder: Path) -> Iterator[Finding]:
    """Tell of certificates and keys that cannot be read now. What they hold is read with each connection."""
    for path in _PEM_FILES:
        name: Plain = laid.data
        for step in path:
            name = name.get(step) if isinstance(name, dict) else None
        if isinstance(name, str):
            try:
                read(folder / name, _MAX_PEM_BYTES)
            except SourceError as error:
                yield Finding(path, str(error), quotable=True)


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
    """Each once, file by file, in the order of its lines; then what it lacks; then the environment's."""
    distinct = dict.fromkeys(problems)
    place = {file: number for number, file in enumerate(dict.fromkeys(problem.file for problem in distinct))}
    found = sorted(distinct, key=lambda each: (not each.file, place[each.file], each.line is None, each.line or 0))
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
