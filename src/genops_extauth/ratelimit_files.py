"""envoyproxy/ratelimit's YAML files -> the domains they declare, or everything that is wrong with them, at once.

strict_yaml        text -> nodes, in go-yaml's dialect     ratelimit_reader   nodes -> go-yaml's types, and its errors
ratelimit_keys     which keys there are, and where         ratelimit_limit    one rate_limit
ratelimit_domain   one file                                ratelimit_folder   a folder of files -> bytes

The words of each problem are envoyproxy/ratelimit's, as far as it has any, behind the name that it gives the file (its
path with dots for slashes); what to write instead follows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from genops_extauth.declared import Domain
from genops_extauth.problems import MAX_PROBLEMS, ConfigError, Finding, Problem, spelled
from genops_extauth.ratelimit_domain import composite, read_domain
from genops_extauth.ratelimit_folder import contents
from genops_extauth.ratelimit_reader import Reading
from genops_extauth.strict_yaml import GO_YAML, Document, Fault, Node, parse

_SUFFIXES = (".yaml", ".yml")
_NOT_YAML = "not YAML: "
_UNKNOWN = Node(1, None)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a file (or a resource) called `name` holds: no `domain` where there are problems. `root` knows its lines."""

    name: str
    domain: Domain | None = None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    root: Node = _UNKNOWN


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a folder declares, and what loads but may not mean what it says."""

    domains: tuple[Domain, ...]
    warnings: tuple[Problem, ...] = ()


def read_directory(folder: Path, *, merge_domains: bool = False) -> Loaded:
    """Read all files below `folder`. Raises `ConfigError`, with everything that is wrong with all of them.

    Dot files and dot folders are passed over: a ConfigMap is mounted as links into one (``..data``).
    """
    files, unread = contents(folder)
    loaded, problems = load(files, merge_domains=merge_domains)
    if unread or problems:
        raise ConfigError(tuple(_below(folder, (*unread, *problems)))[: MAX_PROBLEMS + 1])
    empty = () if files else (Problem("", "holds no files: nothing is limited by it", str(folder)),)
    return replace(loaded, warnings=(*_below(folder, loaded.warnings), *empty))


def load(files: Mapping[str, bytes], *, merge_domains: bool = False) -> tuple[Loaded, tuple[Problem, ...]]:
    """Read files that are at hand, by name (with slashes). Where there are problems, what was loaded is not whole."""
    parsed = [parse_file(name, files[name]) for name in sorted(files)]
    domains, found = combine(parsed, merge_domains=merge_domains)
    problems = [*(each for one in parsed for each in one.problems), *found]
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [Problem("", f"these are {MAX_PROBLEMS} problems; there may be more")]
    return Loaded(domains, tuple(each for one in parsed for each in one.warnings)), tuple(problems)


def parse_file(name: str, data: bytes) -> Parsed:
    """Read one file. It raises nothing."""
    key = name.replace("/", ".")
    document = parse(data, GO_YAML)
    warnings = [_placed(name, fault, fault.message) for fault in document.remarks[:MAX_PROBLEMS]]
    if document.root is None or document.faults:
        return Parsed(name, None, tuple(_unreadable(name, key, document)), tuple(warnings))
    reading = Reading(key)
    domain = read_domain(document.root, reading)
    problems = _ordered(finding.at(name, document.root) for finding in reading.problems)
    warnings += [finding.at(name, document.root) for finding in reading.warnings]
    return Parsed(name, None if problems else domain, problems, _ordered(warnings), document.root)


def _ordered(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda each: each.line or 0))


def combine(parsed: Iterable[Parsed], *, merge_domains: bool = False) -> tuple[tuple[Domain, ...], tuple[Problem, ...]]:
    """Make one domain of those of one name, where that is allowed; in the order of the files."""
    groups: dict[str, list[tuple[Parsed, Domain]]] = {}
    problems: list[Problem] = []
    for each in parsed:
        if each.domain is None:
            continue
        group = groups.setdefault(each.domain.name, [])
        if group and not merge_domains:
            problems.append(_twice(each, each.domain, group[0][0]))
        else:
            group.append((each, each.domain))
    for group in groups.values():
        problems += _duplicates(group)
    return tuple(_merged([domain for _, domain in group]) for group in groups.values()), tuple(problems)


def _merged(domains: Sequence[Domain]) -> Domain:
    if len(domains) == 1:
        return domains[0]
    return Domain(
        domains[0].name,
        tuple(descriptor for domain in domains for descriptor in domain.descriptors),
        backtracking=any(domain.backtracking for domain in domains),
        source=", ".join(domain.source for domain in domains),
    )


def _twice(second: Parsed, domain: Domain, first: Parsed) -> Problem:
    text = f"{domain.source}: duplicate domain '{domain.name}' in config file"
    fix = f"it is in {first.name} too: rename one, or allow merge_domains"
    return Finding(("domain",), f"{text}; {fix}").at(second.name, second.root)


def _duplicates(group: Sequence[tuple[Parsed, Domain]]) -> Iterator[Problem]:
    """Tell of descriptors that several files of a domain have. Those of one file are told with the file."""
    seen: dict[str, str] = {}
    for parsed, domain in group:
        for index, descriptor in enumerate(domain.descriptors):
            name = composite(descriptor)
            if seen.setdefault(name, parsed.name) != parsed.name:
                text = f"{domain.source}: duplicate descriptor composite key '{domain.name}.{name}'"
                fix = f"it is in {seen[name]} too: keep one of the two"
                yield Finding(("descriptors", index, "key"), f"{text}; {fix}").at(parsed.name, parsed.root)


def _unreadable(name: str, key: str, document: Document) -> Iterator[Problem]:
    hint = "" if name.endswith(_SUFFIXES) else "; every file here is read: move it away, or begin its name with a dot"
    for fault in document.faults:
        reason = fault.message.removeprefix(_NOT_YAML)
        yield _placed(name, fault, f"{key}: error loading config file: yaml: line {fault.line}: {reason}{hint}")


def _placed(name: str, fault: Fault, message: str) -> Problem:
    return Problem(spelled(fault.path), message, name, fault.line)


def _below(folder: Path, problems: Iterable[Problem]) -> Iterator[Problem]:
    return (replace(each, file=str(folder / each.file)) if each.file else each for each in problems)
