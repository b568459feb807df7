"""One rate limit file: its domain, and the descriptors in it."""

import math
from collections.abc import Iterator, Mapping

from genops_extauth.declared import Charge, Descriptor, Domain, Limit
from genops_extauth.go_yaml import cut, meant
from genops_extauth.model import Json
from genops_extauth.notation import boolean
from genops_extauth.ratelimit_limit import charge, read_limit, suffix
from genops_extauth.ratelimit_reader import Fields, Path, Reading
from genops_extauth.strict_yaml import Node


def read_domain(root: Node, reading: Reading) -> Domain:
    """Read what a file holds. It is good only where no problem was found."""
    if not isinstance(root.value, Mapping) and root.value is not None:
        reading.unfit(root, (), "map[interface {}]interface {}", "write domain: and descriptors: at the top")
        return Domain("")
    fields = reading.fields(root, (), "file")
    name = fields.text("domain")
    if not name and fields.sound("domain"):
        fields.wrong("domain", "config file cannot have empty domain", "write domain: NAME at the top")
    return Domain(
        name,
        tuple(_descriptors(fields, fields.ours("charge", charge, "request"), name)),
        backtracking=fields.ours("backtracking", boolean, default=False),
        source=reading.name,
    )


def composite(descriptor: Descriptor) -> str:
    """How envoyproxy/ratelimit names a descriptor among its siblings; no two of them may share it."""
    return f"{descriptor.key}_{descriptor.value}" if descriptor.value else descriptor.key


def _descriptors(parent: Fields, charged: Charge, above: str) -> Iterator[Descriptor]:
    """The descriptors below; `above` is the path of names down to them."""
    lines: dict[str, int] = {}
    for node, path in parent.mappings("descriptors", "[]config.YamlDescriptor"):
        fields = parent.reading.fields(node, path, "descriptor")
        descriptor = _descriptor(fields, charged, above)
        name = composite(descriptor)
        if name in lines and descriptor.key:
            text = f"duplicate descriptor composite key '{cut(above, 1000)}.{cut(name, 1000)}'"
            fields.wrong("key", text, f"the first is on line {lines[name]}: keep one of the two")
        lines.setdefault(name, node.line)
        yield descriptor


def _descriptor(fields: Fields, charged: Charge, above: str) -> Descriptor:
    key, value = fields.text("key"), fields.text("value")
    if not key and fields.sound("key"):
        fields.wrong("key", "descriptor has empty key", "write key: NAME, as the gateway names the entry")
    name = composite(Descriptor(key, value))
    shared = fields.flag("share_threshold")
    if shared and "*" not in name:
        text = "share_threshold can only be used with wildcard values (containing '*'), but found key"
        fields.wrong("share_threshold", f"{text} '{cut(name, 1000)}'", "write a * in the value, or leave it out")
    return Descriptor(
        key,
        value,
        limits=tuple(_limits(fields, charged)),
        shadow_mode=fields.flag("shadow_mode"),
        quota_mode=fields.flag("quota_mode"),
        detailed_metric=fields.flag("detailed_metric"),
        value_to_metric=fields.flag("value_to_metric"),
        share_threshold=shared,
        metadata=_metadata(fields),
        descriptors=tuple(_descriptors(fields, charged, f"{above}.{name}")),
    )


def _limits(fields: Fields, charged: Charge) -> Iterator[Limit]:
    node = fields.mapping("rate_limit", "config.YamlRateLimit")
    if node is not None:
        if "rate_limits" in fields:
            fields.wrong("rate_limits", "stands beside rate_limit: write all limits into this list")
        yield read_limit(fields.reading.fields(node, (*fields.path, "rate_limit"), "rate_limit"), charged)
    seen: set[tuple[object, ...]] = set()
    for item, path in fields.mappings("rate_limits", "[]config.YamlRateLimit"):
        below = fields.reading.fields(item, path, "rate_limit")
        limit = read_limit(below, charged)
        if limit.unlimited:
            below.wrong("unlimited", "says nothing among several limits: write it in rate_limit, or leave it out")
        elif suffix(limit) in seen and below.sound():
            below.wrong("unit", "counts in the same bucket as a limit above it: write a different unit")
        seen.add(suffix(limit))
        yield limit


def _metadata(fields: Fields) -> Mapping[str, Json] | None:
    node = fields.mapping("metadata", "map[string]interface {}")
    if node is None or not isinstance(node.value, Mapping):
        return None
    path = (*fields.path, "metadata")
    return {key: _json(each, (*path, key), fields.reading) for key, each in node.value.items()}


def _json(node: Node, path: Path, reading: Reading) -> Json:
    """A value of metadata: what go-yaml takes it for."""
    if isinstance(node.value, Mapping):
        return {key: _json(each, (*path, key), reading) for key, each in node.value.items()}
    if isinstance(node.value, tuple):
        return [_json(each, (*path, index), reading) for index, each in enumerate(node.value)]
    found = meant(node)
    if isinstance(found, float) and not math.isfinite(found):
        reading.wrong(path, "error parsing metadata: JSON has no such number", "put it in quotes")
        return None
    return found
