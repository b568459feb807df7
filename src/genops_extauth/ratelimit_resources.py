"""RateLimitConfig resources -> the domains they declare, or everything that is wrong with them, as of files.

A resource is read as the file that says the same would be: envoyproxy/ratelimit makes its YAML's structs of it
(src/config/config_xds.go), and a resource's name takes the place of the file's.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from genops_extauth.declared import Domain
from genops_extauth.problems import MAX_PROBLEMS, Problem
from genops_extauth.ratelimit_domain import read_domain
from genops_extauth.ratelimit_files import Parsed, combine
from genops_extauth.ratelimit_reader import Reading
from genops_extauth.xds_messages import Resource


def declared(
    resources: Iterable[Resource], *, merge_domains: bool = False
) -> tuple[tuple[Domain, ...], tuple[str, ...]]:
    """Read resources. Where there are problems, the domains are not whole."""
    parsed = [_parsed(resource) for resource in resources]
    domains, found = combine(parsed, merge_domains=merge_domains)
    problems = [*(each for one in parsed for each in one.problems), *found]
    return domains, tuple(_told(problems))


def _parsed(resource: Resource) -> Parsed:
    name, document = resource
    if document.root is None:
        return Parsed(name, None, tuple(Problem("", f"{name}: {fault.message}") for fault in document.faults))
    reading = Reading(name)
    domain = read_domain(document.root, reading)
    problems = tuple(finding.at(name, document.root) for finding in reading.problems)
    return Parsed(name, None if problems else domain, problems, root=document.root)


def _told(problems: list[Problem]) -> Iterator[str]:
    """Say where in the resource, which has no lines; its name is part of each message."""
    for problem in problems[:MAX_PROBLEMS]:
        yield str(replace(problem, file="", line=None))
    if len(problems) > MAX_PROBLEMS:
        yield f"these are {MAX_PROBLEMS} problems; there may be more"
