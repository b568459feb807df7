"""File and environment -> `Config`, and what is told where that cannot be."""

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # no stubs are installed
from pydantic import ValidationError

from generated import keys
from genops_extauth import claims
from genops_extauth.claim_sections import Claims
from genops_extauth.config import (
    Address,
    Config,
    ConfigError,
    Problem,
    Rate,
    UnixPath,
    json_schema,
    load,
    restart_only,
)
from genops_extauth.fields import Section
from genops_extauth.problems import UNTRANSLATED
from genops_extauth.reserved_headers import ATTRIBUTES
from genops_extauth.store_address import Tls
from genops_extauth.summary import summary
from minting import ec_pair, rsa_pair

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "genops.example.yaml"
SECRET = "hunter2-Zq9"

ISSUER = """\
identity:
  jwt:
    - issuer: https://auth.example.com
      audiences: [genops]
      keys: {jwks_uri: https://auth.example.com/jwks.json}
"""
ENVIRONMENT = {
    "JWT_PUBLIC_KEY": rsa_pair().public_pem().decode(),
    "ALLOWED_ISSUERS": "https://a.example.com, https://b.example.com",
    "ALLOWED_AUDIENCES": "genops,other",
}


class Folder:
    """A folder with a configuration and what it points to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "genops.yaml"

    def load(self, text: str, environ: Mapping[str, str] | None = None) -> Config:
        self.file.write_text(dedent(text))
        return load(self.file, environ or {})

    def problems(self, text: str, environ: Mapping[str, str] | None = None) -> tuple[Problem, ...]:
        with pytest.raises(ConfigError) as raised:
            self.load(text, environ)
        assert raised.value.__context__ is None, "a traceback would show pydantic's error, which quotes values"
        return raised.value.problems

    def problem(self, text: str, environ: Mapping[str, str] | None = None) -> str:
        (found,) = self.problems(text, environ)
        return str(found).removeprefix(f"{self.path}/")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def issuers(*entries: str) -> str:
    return "identity:\n  jwt:\n" + "".join(f"    - {entry}\n" for entry in entries)


def issuer(name: str = "i", /, **settings: Any) -> str:
    entry = {"issuer": name, "audiences": ["a"], "keys": {"jwks_uri": "https://a/"}} | settings
    return json.dumps(entry)


# What is right


def test_the_example_holds_the_defaults(folder: Folder) -> None:
    """The example loads, and says the defaults, except for what must be written and for bursts."""
    example, bare = load(EXAMPLE, {}), folder.load(ISSUER)

    assert (example.server, example.log, example.store) == (bare.server, bare.log, bare.store)
    assert example.governance == bare.governance
    assert example.identity.jwt[0].claims == bare.identity.jwt[0].claims
    assert example.identity.jwt[0].keys.jwks == bare.identity.jwt[0].keys.jwks
    assert example.identity.jwt[0].leeway == bare.identity.jwt[0].leeway
    assert example.tiers.keys() == bare.tiers.keys()
    written = {name: value for name, value in example.rate_limits if name != "anonymous"}
    assert written == {name: value for name, value in bare.rate_limits if name != "anonymous"}
    assert example.rate_limits.anonymous.meter == bare.rate_limits.anonymous.meter


def test_the_example_is_complete() -> None:
    """Every setting stands in the example, were it as a comment."""
    text = EXAMPLE.read_text()
    missing = [name for name in settings_of(Config) if not re.search(rf"[ {{#]*\b{name}:", text)]

    assert missing == []


def settings_of(annotation: object) -> set[str]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        fields = annotation.model_fields
        names = {field.alias or name for name, field in fields.items()}
        return names.union(*(settings_of(field.annotation) for field in fields.values()))
    return set().union(*map(settings_of, get_args(annotation)))


def test_the_schema_describes_every_setting() -> None:
    """The exported JSON Schema is one, accepts the example, and describes every setting."""
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(yaml.safe_load(EXAMPLE.read_text()))
    sections = [schema, *schema["$defs"].values()]
    settings = [setting for each in sections for setting in each["properties"].values()]
    described = [schema["$defs"][each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in settings]

    assert all(each["description"] for each in described)
    assert all(each["additionalProperties"] is False for each in sections)


def test_the_schema_writes_defaults_as_users_do() -> None:
    """A default in the schema is in the notation of the file, and valid by the schema itself."""
    schema = json_schema()

    assert schema["$defs"]["Server"]["properties"]["drain_delay"]["default"] == "5s"
    for section in schema["$defs"].values():
        for setting in section["properties"].values():
            if "default" in setting:
                Draft202012Validator({**setting, "$defs": schema["$defs"]}).validate(setting["default"])


def test_the_schema_refuses_what_load_refuses(folder: Folder) -> None:
    """A misspelt key and a bad rate are refused by the schema as by the loader."""
    for bad in ("tierz: {}\n", "tiers: {free: {limit: 100/fortnight}}\n", "log: {level: loud}\n"):
        folder.problem(ISSUER + bad)
        assert not Draft202012Validator(json_schema()).is_valid(yaml.safe_load(ISSUER + bad))


def test_values_are_read_by_their_notation(folder: Folder) -> None:
    """Addresses, durations, rates and lists become values of their types."""
    config = folder.load(
        ISSUER
        + """\
server: {grpc: "unix:/run/g.sock", http: "[::1]:0", drain_delay: 1m30s}
store: {url: "redis:6379", timeout: 20ms}
tiers: {free: {limit: 0/second}, paid: {limit: 10/minute, burst: 3}}
rate_limits: {headers: false}
routes: [{methods: [GET, HEAD], path: /healthz, auth: none}]
"""
    )

    assert config.server.grpc == UnixPath("/run/g.sock")
    assert config.server.http == Address("::1", 0)
    assert (config.server.drain_delay, config.store.timeout) == (90.0, 0.02)
    assert config.store.url == "redis://redis:6379/0"
    assert (config.tiers["paid"].limit, config.tiers["paid"].burst) == (Rate(10, "minute"), 3)
    assert config.tiers["free"].meter.capacity == 0
    assert config.rate_limits.headers is False
    assert config.routes[0].methods == ("GET", "HEAD")


def test_scalars_mean_what_is_written(folder: Folder) -> None:
    """`on`, `0123`, `12:30` and a date are text where text is meant."""
    config = folder.load(
        issuers('{issuer: "on", audiences: [0123, 12:30, 2026-01-01], keys: {jwks_uri: "https://a/"}}')
        + "governance: {required: [], defaults: {team: yes, project: 0x1F}}\n"
    )

    assert config.identity.jwt[0].issuer == "on"
    assert config.identity.jwt[0].audiences == ("0123", "12:30", "2026-01-01")
    assert config.governance.defaults == {"team": "yes", "project": "0x1F", "customer_tier": "free"}


def test_a_section_without_content_is_its_defaults(folder: Folder) -> None:
    """A section whose lines are all commented out is as good as none."""
    assert folder.load(f"server:\nlog:\nrate_limits: ~\n{ISSUER}") == folder.load(ISSUER)


def test_claims_are_mapped_one_by_one(folder: Folder) -> None:
    """A mapping names claims by dots or as a list, `~` unmaps, and what is not mentioned keeps its default."""
    mapping = {"team": "realm.team", "customer_tier": ["https://acme.com/tier"], "cost_center": None}
    config = folder.load(issuers(issuer(claims=mapping)))

    assert config.identity.jwt[0].claims.paths == {
        "team": ("realm", "team"),
        "project": ("project",),
        "customer_id": ("sub",),
        "customer_tier": ("https://acme.com/tier",),
    }


def test_a_configuration_is_frozen(folder: Folder) -> None:
    """Nothing of a configuration can be changed once it is loaded."""
    config = folder.load(ISSUER)

    with pytest.raises(ValidationError):
        config.server.http = Address("0.0.0.0", 1)
    for mapping in (config.tiers, config.governance.defaults):
        with pytest.raises(TypeError):
            mapping["gold"] = None  # type: ignore[index]  # what is tested


# Keys


def test_a_key_file_is_read_beside_the_configuration(folder: Folder) -> None:
    """A relative key file starts at the configuration's folder, and its text is kept."""
    pem = ec_pair().public_pem()
    (folder.path / "issuer.pem").write_bytes(pem)
    config = folder.load(issuers(issuer(algorithms=["ES256"], keys={"public_key_file": "issuer.pem"})))
    (folder.path / "issuer.pem").unlink()

    assert config.identity.jwt[0].keys.pem == pem


def test_a_key_may_stand_in_any_variable(folder: Folder) -> None:
    """`public_key_env` names the variable that holds the key, JWT_PUBLIC_KEY among them."""
    for name in ("ACME_KEY", "JWT_PUBLIC_KEY"):
        text = issuers(issuer(keys={"public_key_env": name}))
        config = folder.load(text, {name: rsa_pair().public_pem().decode()})

        assert config.identity.jwt[0].keys.pem == rsa_pair().public_pem()


def key_file(folder: Folder, data: bytes) -> str:
    (folder.path / "k.pem").write_bytes(data)
    return folder.problem(issuers(issuer(keys={"public_key_file": "k.pem"})))


def test_an_unusable_key_file_is_an_error(folder: Folder) -> None:
    """A file that holds no key, a key for other algorithms, or a private key is refused at its path."""
    place = 'genops.yaml:3: identity.jwt[0].keys.public_key_file: "k.pem": '

    assert key_file(folder, b"hello").startswith(place)
    assert "`algorithms` has only RS256" in key_file(folder, ec_pair().public_pem())
    private = key_file(folder, rsa_pair().private_pem())
    assert "this is a private key" in private
    assert not any(line in private for line in rsa_pair().private_pem().decode().splitlines())


def test_a_key_file_that_cannot_be_read_is_an_error(folder: Folder) -> None:
    """A missing file, a folder, a FIFO and an endless device are refused at once."""
    os.mkfifo(folder.path / "fifo")
    for name, reason in [
        ("nope.pem", "No such file"),
        (".", "not a regular file"),
        ("fifo", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("a\0b", "no such path"),
        ("x" * 5000, "File name too long"),
    ]:
        assert f"cannot be read: {reason}" in folder.problem(issuers(issuer(keys={"public_key_file": name})))
    (folder.path / "big").write_bytes(b"x" * 100_000)
    assert "larger than" in folder.problem(issuers(issuer(keys={"public_key_file": "big"})))


# What is wrong


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tiers: {free: {limit: 100/fortnight}}", 'genops.yaml:6: tiers.free.limit: "100/fortnight": unit must be'),
        ("tierz: {}", "tierz: unknown key; did you mean tiers? allowed here: server, log,"),
        ("tiers: {free: {limit: 1/hour, bursts: 1}}", "tiers.free.bursts: unknown key; did you mean burst?"),
        ("server:\n  drian_delay: 5s", "genops.yaml:7: server.drian_delay: unknown key; did you mean drain_delay?"),
        ("server: {drain_delay: 5}", '"5": a number needs its unit: write for example 250ms'),
        ("server: {drain_delay: 11m}", "must be from 0s to 10m"),
        ("server: {grpc: 50051}", "write HOST:PORT"),
        ("server: {http: 'unix:/run/a.sock'}", "write HOST:PORT"),
        ("server: {http: 127.0.0.1:50051}", "server.grpc has this address too"),
        ("server: {debug: 127.0.0.1}", 'server.debug: "127.0.0.1": not an address: write HOST:PORT'),
        ("server: {debug: '127.0.0.1:8080'}", 'debug: "127.0.0.1:8080": server.http has this address too'),
        ("server: {json_limits: 1}", 'server.json_limits: "1": write true or false'),
        ("server: {services: []}", "server.services: name at least one service, or leave it out"),
        ("server: {services: [jwt]}", 'server.services[0]: "jwt": must be identity or rate_limits'),
        ("server: {services: [rate_limits, rate_limits]}", "server.services: names something twice; keep each once"),
        ("server: {transport: tcp}", "must be auto, grpcio or native"),
        ("server: [a]", "server: write a mapping here"),
        ("server: {http: [a]}", "write one value here, not a list or a mapping"),
        ("server: {http: }", "server.http: has no value; write one, or remove the line"),
        ("log: {level: loud}", 'log.level: "loud": must be debug, info, warning or error'),
        ("store: {url: 'redis+sentinel://a'}", "store.url: write redis+sentinel://HOST:PORT,HOST:PORT/MASTER"),
        ("store: {url: 'redis+cluster://a/1'}", "store.url: write redis+cluster://HOST:PORT,HOST:PORT with no"),
        ("store: {url: 'a:1,b:1'}", "store.url: a list of hosts is of sentinels or of a cluster: write"),
        ("store: {url: 'embedded:data'}", "or embedded:/PATH with the absolute path of its folder"),
        ("store: {timeout: 0s}", "must be from 1ms to 10s"),
        ("store: {password_file: nope}", "cannot be read: No such file or directory; it names a file"),
        ("store: {url: redis+sentinel://a/m, sentinel_password_file: no}", "it names a file, and is not the password"),
        ("store: {url: 'rediss://a', tls: {ca_file: no.pem}}", 'tls.ca_file: "no.pem": cannot be read: No such file'),
        ("store: {url: 'rediss://a', tls: {ca_file: .}}", 'tls.ca_file: ".": cannot be read: not a regular file'),
        ("store: {url: 'rediss://a', tls: {server_name: ''}}", "must be 1 to 256 visible ASCII characters"),
        ("store: {tls: {server_name: a}}", "store.tls: no url says TLS: write rediss://HOST:PORT in store.url, or"),
        ("store: {per_second: {}}", "store.per_second.url: is required"),
        ("store: {per_second: {url: a:x}}", "store.per_second.url: not a store: write embedded:, redis://HOST:PORT,"),
        ("store: {per_second: {url: 'embedded:'}}", "per_second.url: a second embedded store would spare"),
        ("store: {per_second: {url: a, password_file: nope}}", "per_second.password_file: cannot be read: No such"),
        ("store: {hash_tag: a b}", 'store.hash_tag: "a b": must be 1 to 64 visible ASCII characters, without spaces'),
        ("store: {denial_cache: off}", 'store.denial_cache: "off": write true or false'),
        ("store: {outage: {allowance: 110%}}", "store.outage.allowance: write a share from 0% to 100%, for"),
        ("store: {outage: {then: fail}}", 'store.outage.then: "fail": must be open or closed'),
        ("store: {outage: {processes: 0}}", 'store.outage.processes: "0": must be from 1 to 4294967295'),
        ("store: {outage: {alowance: 1%}}", "store.outage.alowance: unknown key; did you mean allowance?"),
        ("tiers: {free: {limit: 1/hour}, free: {limit: 2/hour}}", "tiers.free: written twice, first on line 6"),
        ("tiers: {}", "name at least one tier"),
        ("tiers: {free: }", "tiers.free.limit: is required"),
        ("tiers: {free: {limit: 5/hour, burst: 0}}", "a bucket of 0 never admits anything"),
        ("tiers: {free: {limit: 0/hour, burst: 5}}", "a limit of 0 admits nothing"),
        ("tiers: {free: {limit: 5/hour, burst: 1e3}}", 'tiers.free.burst: "1e3": must be a whole number'),
        ("tiers: {free: {limit: 5/hour, outage: fail}}", 'tiers.free.outage: "fail": must be open or closed'),
        ("tiers: {free: {limit: 5/hour, outage_allowance: 10%}}", "free.outage_allowance: must be a whole number"),
        ("tiers: {free: {limit: 5/hour, lease: -1}}", 'tiers.free.lease: "-1": must be a whole number from 0 to'),
        ("tiers: {free: {limit: 5/hour, lease: 6}}", 'tiers.free.lease: "6": must be at most 5, which is all that a'),
        ("tiers: {'a b': {limit: 1/hour}}", 'tiers."a b": a name has'),
        ("tiers: {gold: {limit: 1/hour}}", "governance.defaults.customer_tier: no tier is named free; there are gold"),
        ("governance: {defaults: {customer_tier: fre}}", "no tier is named fre; did you mean free?"),
        ("governance: {required: [teem]}", "no such governance attribute; there are team, project,"),
        ("governance: {required: [team, team]}", "names something twice"),
        ("governance: {required: [team], defaults: {team: x}}", 'governance.defaults.team: "x": is required too'),
        ("governance: {defaults: {teem: x}}", "governance.defaults.teem: no such governance attribute"),
        ("governance: {defaults: {cost_center: 'a, b'}}", "visible ASCII characters, single spaces inside, no comma"),
        ("rate_limits: {headers: on}", 'rate_limits.headers: "on": write true or false'),
        ("rate_limits: {domain: ''}", "a name has 1 to 64"),
        ("rate_limits: {directory: ''}", "rate_limits.directory: write the name of a file or folder"),
        ('rate_limits: {directory: "a\\0b"}', "rate_limits.directory: write the name of a file or folder"),
        ("rate_limits: {directory: nope}", 'directory: "nope": the directory cannot be read: No such file or'),
        ("rate_limits: {directory: genops.yaml}", 'directory: "genops.yaml": the directory cannot be read: Not a dir'),
        ("rate_limits: {merge_domains: yes}", 'rate_limits.merge_domains: "yes": write true or false'),
        ("rate_limits: {near_limit_ratio: 80}", 'rate_limits.near_limit_ratio: "80": write a share from 0% to 100%'),
        ("rate_limits: {shadow_mode: 1}", 'rate_limits.shadow_mode: "1": write true or false'),
        ("rate_limits: {quota_mode: 1}", 'rate_limits.quota_mode: "1": write true or false'),
        ("rate_limits: {dynamic_metadata: 1}", 'rate_limits.dynamic_metadata: "1": write true or false'),
        ("rate_limits: {header_names: {limit: a b}}", 'limit: "a b": a header name has 1 to 64 letters, digits and'),
        ("rate_limits: {header_names: {remaining: ''}}", "header_names.remaining: a header name has"),
        ("rate_limits: {header_names: {reset: 'a:'}}", 'header_names.reset: "a:": a header name has'),
        (
            "rate_limits: {header_names: {reset: X-RateLimit-Limit}}",
            'header_names.reset: "X-RateLimit-Limit": header_names.limit has this name too; choose another one',
        ),
        ("rate_limits: {retry_after: 5s}", 'rate_limits.retry_after: "5s": write true or false'),
        ("rate_limits: {ietf_headers: draft-10}", 'rate_limits.ietf_headers: "draft-10": write true or false'),
        (f"rate_limits: {{body: {'a' * 5000}}}", "rate_limits.body: must be text of at most 4096 characters"),
        ("rate_limits: {metric_series: many}", 'rate_limits.metric_series: "many": must be a whole number from 0'),
        ("rate_limits: {xds: {}}", "rate_limits.xds.server: is required"),
        ("rate_limits: {xds: {server: 'http://a:1'}}", 'xds.server: "http://a:1": not an address: write HOST:PORT'),
        ("rate_limits: {anonymous: {burst: 3}}", "rate_limits.anonymous.limit: is required"),
        ("routes: [{methods: GET, path: /a, auth: none}]", "routes[0].methods: write a list here"),
        ("routes: [{methods: [], path: /a, auth: none}]", "an empty list matches nothing"),
        ("routes: [{methods: [get], path: /a, auth: none}]", "methods are upper case: GET"),
        ("routes: [{methods: [GET], path: /a/../b, auth: none}]", "write it without //, . and .."),
        ("routes: [{methods: [GET], path: /a, auth: jwt}]", 'routes[0].auth: "jwt": write none, refuse, or a list'),
        ("routes: {a: b}", "routes: write a list here"),
    ],
)  # fmt: skip
def test_one_wrong_setting(folder: Folder, text: str, problem: str) -> None:
    """What is wrong is told once, with file, line, path, the value where it may be shown, and what to write."""
    found = folder.problem(ISSUER + text)

    assert re.match(r"genops\.yaml:(\d+:)? ", found)
    assert problem in found


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"node_id": ""}, "node_id: must be 1 to 256 visible ASCII characters"),
        ({"node_metadata": "a=b"}, "node_metadata: write a mapping here (name: value)"),
        ({"node_metadata": {"a": ["b"]}}, "node_metadata.a: write one value here, not a list or a mapping"),
        ({"headers": {"X-Tenant": "a"}}, "headers.X-Tenant: write it in lower case, not beginning with grpc- nor"),
        ({"headers": {"": "a"}}, 'headers."": write it in lower case, not beginning with grpc- nor'),
        ({"headers": {"a b": "a"}}, 'headers."a b": write it in lower case, not beginning with grpc- nor'),
        ({"headers": {"grpc-timeout": "a"}}, "headers.grpc-timeout: write it in lower case, not beginning with"),
        ({"headers": {"a-bin": "a"}}, "headers.a-bin: write it in lower case, not beginning with grpc- nor ending"),
        ({"headers": {"x-tenant": "ä"}}, "headers.x-tenant: must be visible ASCII characters and spaces"),
        ({"headers": {"x-tenant": "a\r\nb"}}, "headers.x-tenant: must be visible ASCII characters and spaces"),
        ({"headers": {"x-tenant": ""}}, "headers.x-tenant: must be visible ASCII characters and spaces"),
        ({"tls": "1"}, 'tls: "1": write true or false'),
        ({"tls": True, "ca_file": "no.pem"}, 'ca_file: "no.pem": cannot be read: No such file or directory'),
        ({"tls": True, "cert_file": "genops.yaml"}, "key_file: a certificate and its key go together: write both, or"),
        ({"tls": True, "key_file": "genops.yaml"}, "cert_file: a certificate and its key go together: write both, or"),
        ({"server_name": "a"}, "tls: certificates are given, and TLS is off: write tls: true, or leave them out"),
        ({"server_name": "a b\t"}, "server_name: must be 1 to 256 visible ASCII characters"),
        ({"backoff": "1"}, 'backoff: "1": a number needs its unit: write for example 250ms, 30s'),
        ({"backoff": "1ms"}, 'backoff: "1ms": must be from 10ms to 10m'),
        ({"backoff_max": "2h"}, 'backoff_max: "2h": must be from 10ms to 1h'),
        ({"backoff": "10s", "backoff_max": "5s"}, 'backoff_max: "5s": is shorter than backoff: write the same or more'),
        ({"max_bytes": 0}, 'max_bytes: "0": must be from 1 to 2147483647'),
        ({"start_without": "yes"}, 'start_without: "yes": write true or false'),
    ],
)  # fmt: skip
def test_one_wrong_setting_of_a_management_server(folder: Folder, settings: dict[str, Any], problem: str) -> None:
    """A management server that could not be asked is refused at its setting."""
    section = json.dumps({"xds": {"server": "127.0.0.1:18000"} | settings}, ensure_ascii=False)
    found = folder.problem(f"{ISSUER}rate_limits: {section}\n")

    assert found.startswith(f"genops.yaml:6: rate_limits.xds.{problem}")


SCHEMA = json_schema()
SETTINGS = [name for name, _ in keys(SCHEMA, SCHEMA["$defs"], "") if "[" not in name and "*" not in name]
SECTIONS = {name.rpartition(".")[0] for name in SETTINGS}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_another_kind(folder: Folder, setting: str) -> None:
    """Whatever stands where a value of another kind belongs is told at its place, in our words."""
    wrong: Any = {"nonsense": [{"a": "b"}]} if setting in SECTIONS else [{"nonsense": ["b"]}]
    for step in reversed(setting.split(".")):
        wrong = {step: wrong}
    found = folder.problems(yaml.safe_dump(yaml.safe_load(ISSUER) | wrong))

    assert any(each.path.startswith(setting) for each in found)
    assert not any(each.message == UNTRANSLATED or "nput should" in each.message for each in found)


def test_one_source_of_limits(folder: Folder) -> None:
    """Limits come from files or from a management server, never from both."""
    (folder.path / "limits").mkdir()
    text = ISSUER + "rate_limits: {directory: limits, xds: {server: 'a:1'}}"

    assert "rate_limits.xds: rate_limits.directory gives the limits already: keep one" in folder.problem(text)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"audiences": []}, "audiences: an empty list would accept the issuer's tokens for every other service"),
        ({"audiences": "a"}, "audiences: write a list here"),
        ({"audiences": [""]}, "audiences[0]: must be 1 to 256 visible ASCII characters"),
        ({"audiences": ["a", "a"]}, "names something twice"),
        ({"algorithms": []}, "algorithms: an empty list verifies nothing"),
        ({"algorithms": ["HS256"]}, "HMAC has one secret for both sides"),
        ({"algorithms": ["none"]}, 'algorithms[0]: "none": no such algorithm; there are ES256'),
        ({"keys": {}}, "keys: write exactly one of jwks_uri, discovery: true, public_key_file, public_key_env"),
        ({"keys": {"jwks_uri": "https://a/", "public_key_file": "a"}}, "write exactly one of"),
        ({"keys": {"jwks_uri": "http://a/"}}, "the URI is not https"),
        ({"keys": {"jwks_uri": "https://u@a/"}}, "user name or password"),
        ({"keys": {"jwks_uri": "https://a/", "jwks": {"max_stale": "1m", "refresh_interval": "2m"}}}, "expire before"),
        ({"keys": {"jwks_uri": "https://a/", "jwks": {"cooldown": "0s"}}}, 'cooldown: "0s": must be from 1s to 1h'),
        ({"keys": {"public_key_env": "ACME_KEY"}}, "public_key_env: the environment variable is not set"),
        ({"claims": {"teem": "x"}}, "claims.teem: unknown key; did you mean team?"),
        ({"claims": {"team": ""}}, "claims.team: write a claim's name"),
        ({"claims": {"team": "a..b"}}, "write a claim's name"),
        ({"claims": {"team": {"a": "b"}}}, "write a claim's name"),
        ({"claims": {"team": ["a"] * 9}}, "1 to 8 steps"),
        ({"claims": {"customer_tier": "https://acme.com/tier"}}, 'written as a list: ["https://acme.com/tier"]'),
        ({"claims": {"team": None}}, "claims.team: governance.required has it"),
        ({"tiers": ["gold"]}, 'tiers[0]: "gold": no tier is named gold; there are free, standard, premium'),
        ({"leeway": "6m"}, "must be from 0s to 5m"),
        ({"customer_prefix": "a b"}, "a prefix has up to 64"),
        ({"keys": {"discovery": True}}, 'issuer: "i": is to be asked for its keys: '),
        ({"keys": {"discovery": True, "jwks_uri": "https://a/"}}, "write exactly one of"),
        ({"profile": "id_token"}, 'profile: "id_token": must be any or access_token'),
        ({"max_lifetime": "0s"}, 'max_lifetime: "0s": must be from 1s to 8760h'),
        ({"claims": {"scopes": {"a": "b"}}}, "claims.scopes: write a claim's name"),
        ({"rules": [{"equals": "a"}]}, "rules[0].claim: "),
        ({"rules": [{"claim": "a"}]}, "rules[0]: write exactly one of equals, in, contains, matches"),
        ({"rules": [{"claim": "a", "equals": "b", "in": ["c"]}]}, "write exactly one of equals, in, contains, matches"),
        ({"rules": [{"claim": "a", "in": []}]}, "rules[0].in: an empty list is never met: name a value"),
        ({"rules": [{"claim": "a", "in": ["b", "b"]}]}, "rules[0].in: names something twice"),
        ({"rules": [{"claim": "a", "equals": ["b"]}]}, "rules[0].equals: write one value here"),
        ({"rules": [{"claim": "a", "matches": "(a"}]}, "rules[0].matches: not a pattern of RE2: missing )"),
        ({"rules": [{"claim": "a", "matches": r"(a)\1"}]}, "rules[0].matches: not a pattern of RE2: invalid escape"),
    ],
)  # fmt: skip
def test_one_wrong_setting_of_an_issuer(folder: Folder, settings: dict[str, Any], problem: str) -> None:
    """An issuer that could not be verified, or that would say more than it may, is refused at its entry."""
    found = folder.problem(issuers(issuer(**settings)))

    assert found.startswith("genops.yaml:3: identity.jwt[0].")
    assert problem in found


def test_jwks_settings_belong_to_keys_that_are_fetched(folder: Folder) -> None:
    """How keys are fetched is refused beside a key that is not."""
    (folder.path / "k.pem").write_bytes(rsa_pair().public_pem())
    text = issuers(issuer(keys={"public_key_file": "k.pem", "jwks": {}}))

    assert "keys.jwks: is about keys that are fetched" in folder.problem(text)


@pytest.mark.parametrize(("one", "other"), [("", ""), ("", "acme:"), ("acme:", "acme:"), ("acme", "acme:"), ("b", "")])
def test_two_issuers_never_mint_the_same_customer(folder: Folder, one: str, other: str) -> None:
    """With several issuers a prefix that is the beginning of another's, an empty one included, is refused."""
    text = issuers(issuer("i", tiers=["free"], customer_prefix=one), issuer("j", tiers=["free"], customer_prefix=other))

    assert "identity.jwt[1].customer_prefix" in folder.problem(text)


def test_several_issuers_say_which_tiers_they_grant(folder: Folder) -> None:
    """With several issuers one that may grant everything must not come about by leaving a line out."""
    first = issuer("i", customer_prefix="i:", tiers=["free"])
    text = issuers(first, issuer("j", customer_prefix="j:"))

    assert "identity.jwt[1].tiers: with several issuers" in folder.problem(text)
    assert folder.load(issuers(first, issuer("j", customer_prefix="j:", tiers=[]))).identity.jwt[1].tiers == ()


@pytest.mark.parametrize(("default", "granted"), [("big", ["small"]), ("big", ["small", "medium"])])
def test_silence_grants_no_more_than_words(folder: Folder, default: str, granted: list[str]) -> None:
    """An issuer cannot grant a better tier by naming none than by naming one: such a default is refused."""
    tiers = "tiers: {small: {limit: 1/hour}, medium: {limit: 5/hour}, big: {limit: 9/hour}}\n"
    text = tiers + f"governance: {{defaults: {{customer_tier: {default}}}}}\n"

    assert "naming none grants big" in folder.problem(text + issuers(issuer(tiers=granted)))
    assert folder.load(text + issuers(issuer(tiers=[*granted, default]))).default_tier == default


def test_an_issuer_stands_once(folder: Folder) -> None:
    """Two entries of one issuer are refused: a token could not say which of them it is for."""
    text = issuers(*(issuer("i", tiers=["free"], customer_prefix=prefix) for prefix in ("a:", "b:")))

    assert "the same issuer stands in entry [0]" in folder.problem(text)


def test_issuers_pinned_to_one_key_are_one_signer(folder: Folder) -> None:
    """Issuers that share a static key need no prefixes: its holder speaks for all of them anyway."""
    (folder.path / "k.pem").write_bytes(rsa_pair().public_pem())
    shared = {"keys": {"public_key_file": "k.pem"}}

    assert len(folder.load(issuers(issuer("i", **shared), issuer("j", **shared))).identity.jwt) == 2


def secret_issuer(name: str = "s", /, **settings: Any) -> str:
    entry = {"issuer": name, "audiences": ["a"], "secret_env": "HMAC_SECRET", "tiers": ["free"]} | settings
    return json.dumps({"customer_prefix": f"{name}:"} | entry)


def with_secrets(*entries: str) -> str:
    first = issuer("i", tiers=["free"], customer_prefix="i:")
    return issuers(first) + "  hmac:\n" + "".join(f"    - {entry}\n" for entry in entries)


HMAC = {"HMAC_SECRET": "0123456789abcdef" * 4, "ANOTHER": "fedcba9876543210" * 4, "SHORT": "0123456789abcdef" * 2}


def test_claims_profile_rules_and_lifetime(folder: Folder) -> None:
    """What an issuer's tokens must say is read as it is written: true is a boolean, 42 is text."""
    entry = folder.load(
        issuers(
            issuer(
                claims={"roles": "realm_access.roles", "scopes": None, "user_id": "sub"},
                profile="access_token",
                max_lifetime="24h",
                rules=[
                    {"claim": "email_verified", "equals": True},
                    {"claim": ["https://a/dept"], "in": ["42", "ml"]},
                    {"claim": "org.groups", "contains": "ml"},
                    {"claim": "email", "matches": r"[^@]+@example\.com"},
                ],
            )
        )
    ).identity.jwt[0]
    good = {"email_verified": True, "https://a/dept": "42", "org": {"groups": ["ml"]}, "email": "a@example.com"}
    bad = {"email_verified": "true", "https://a/dept": 42, "org": {"groups": "ml"}, "email": "a@example.com.test"}

    assert (entry.claims.roles, entry.claims.scopes) == (("realm_access", "roles"), None)
    assert entry.claims.paths["user_id"] == ("sub",)
    assert entry.claims.paths.keys() == {"team", "project", "customer_id", "customer_tier", "cost_center", "user_id"}
    assert (entry.profile, entry.max_lifetime) == ("access_token", 86_400.0)
    assert [each.rule.holds(good) for each in entry.rules] == [True] * 4
    assert [each.rule.holds(bad) for each in entry.rules] == [False] * 4


def test_every_attribute_has_a_claim() -> None:
    """Each governance attribute can come from a token."""
    assert Claims.model_fields.keys() == {*ATTRIBUTES, "scopes", "roles"}


def test_a_secret_is_read_from_a_file_or_the_environment(folder: Folder) -> None:
    """A secret comes from where the entry says, without the line break at its end, and is never shown."""
    (folder.path / "secret").write_text(HMAC["ANOTHER"] + "\r\n")
    text = with_secrets(
        secret_issuer("s", algorithms=["HS256", "HS512"]), secret_issuer("t", secret_env=None, secret_file="secret")
    )
    config = folder.load(text, HMAC)
    first, second = config.identity.hmac

    assert first.secret.value.decode() == HMAC["HMAC_SECRET"]
    assert first.secret.algorithms == {"HS256", "HS512"}
    assert second.secret.value.decode() == HMAC["ANOTHER"]
    assert not any(secret in f"{config!r} {config}" for secret in HMAC.values())


def test_another_secret_is_another_configuration(folder: Folder) -> None:
    """A changed secret is noticed when the configuration is read again."""
    text = with_secrets(secret_issuer())

    assert folder.load(text, HMAC) == folder.load(text, HMAC)
    assert folder.load(text, HMAC) != folder.load(text, HMAC | {"HMAC_SECRET": HMAC["ANOTHER"]})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"algorithms": ["RS256"]}, 'algorithms[0]: "RS256": a secret is for HS256, HS384, HS512 alone; public keys'),
        ({"algorithms": ["HS256", "ES256"]}, 'algorithms[1]: "ES256": a secret is for HS256, HS384, HS512 alone'),
        ({"algorithms": []}, "algorithms: an empty list verifies nothing"),
        ({"secret_env": None}, "write exactly one of secret_file, secret_env"),
        ({"secret_file": "a"}, "write exactly one of secret_file, secret_env"),
        ({"secret_env": "NOBODY"}, "secret_env: the environment variable is not set"),
        ({"secret_env": "SHORT", "algorithms": ["HS384"]}, "secret_env: shorter than the 48 bytes that HS384 needs"),
        ({"secret_env": None, "secret_file": "no"}, "secret_file: cannot be read: No such file"),
        ({"secret_env": "PEM"}, "secret_env: this is a key or a certificate"),
        ({"secret": "x"}, "secrets do not belong into this file"),
        ({"keys": {"public_key_env": "PEM"}}, "keys: unknown key"),
        ({"issuer": "i"}, 'issuer: "i": the same issuer stands in identity.jwt[0]; join the two'),
        ({"customer_prefix": "i:s:"}, "this issuer could mint the customers of identity.jwt[0]: with several"),
        ({"customer_prefix": ""}, "this issuer could mint the customers of identity.jwt[0]"),
        ({"tiers": None}, "tiers: with several issuers write which tiers each may grant"),
    ],
)  # fmt: skip
def test_one_wrong_setting_of_an_issuer_with_a_secret(folder: Folder, settings: dict[str, Any], problem: str) -> None:
    """A secret that anybody could know, or an issuer that could speak for another, is refused at its entry."""
    found = folder.problem(with_secrets(secret_issuer(**settings)), HMAC | {"PEM": rsa_pair().public_pem().decode()})

    assert found.startswith("genops.yaml:")
    assert "identity.hmac[0]" in found
    assert problem in found


def test_a_secret_is_of_one_issuer(folder: Folder) -> None:
    """Two issuers with one secret could make each other's tokens: the second is refused."""
    found = folder.problem(with_secrets(secret_issuer("s"), secret_issuer("t")), HMAC)

    assert "identity.hmac[1].secret_env: entry [0] has the same" in found
    assert not any(secret in found for secret in HMAC.values())


def test_everything_wrong_is_told_at_once(folder: Folder) -> None:
    """Faults of YAML, settings, sections and environment come together, in the order of the file."""
    (folder.path / "empty").touch()
    problems = folder.problems(
        """\
        server: {grpc: x, drain_delay: 5, nope: 1}
        store: {password_file: empty}
        tiers:
          gold: {limit: 1/hour}
          gold: {limit: 1/hour}
        identity:
          jwt:
            - {issuer: a, audiences: [], keys: {public_key_file: nope}}
        rate_limits: {headers: 1}
        """,
        {"LOG_LEVEL": "loud"},
    )

    assert [(each.line, each.path) for each in problems] == [
        (1, "server.grpc"),
        (1, "server.drain_delay"),
        (1, "server.nope"),
        (2, "store.password_file"),
        (5, "tiers.gold"),
        (8, "identity.jwt[0].audiences"),
        (8, "identity.jwt[0].keys.public_key_file"),
        (9, "rate_limits.headers"),
        (None, "governance.defaults.customer_tier"),
        (None, "env LOG_LEVEL"),
    ]


def test_very_many_problems_are_cut_off(folder: Folder) -> None:
    """A file of ten thousand unknown keys is refused in little time, after a hundred problems."""
    started = time.process_time()
    problems = folder.problems("".join(f"key{number}: x\n" for number in range(10_000)))

    assert len(problems) == 101
    assert "there may be more" in str(problems[-1])
    assert time.process_time() - started < 5


def test_a_yaml_bomb_is_a_problem(folder: Folder) -> None:
    """Aliases that would unfold to millions of values are told like any other fault."""
    levels = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 25))]

    assert "once aliases are written out" in folder.problem("\n".join(levels))


def test_a_document_that_is_no_mapping(folder: Folder) -> None:
    """A list or a word is refused."""
    assert "write settings here" in folder.problem("- a")
    assert "write settings here" in folder.problem("hello")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, and a folder, are refused by their name."""
    for path in (tmp_path / "nope.yaml", tmp_path):
        with pytest.raises(ConfigError, match=f"{path}: cannot be read"):
            load(path, ENVIRONMENT)


@pytest.mark.parametrize("text", ["", "# nothing\n", "log: {level: debug}\n"])
def test_nobody_to_believe(folder: Folder, text: str) -> None:
    """Without an issuer nothing can be verified: both smallest ways are told."""
    found = folder.problem(text)

    assert "identity.jwt: there is nobody to believe" in found
    assert "JWT_PUBLIC_KEY, ALLOWED_ISSUERS and ALLOWED_AUDIENCES" in found


def test_without_file_and_environment() -> None:
    """Neither file nor environment is told the same, without a file's name."""
    with pytest.raises(ConfigError, match=r"^identity\.jwt: there is nobody to believe"):
        load(None, {})


def test_keys_are_printed_harmlessly(folder: Folder) -> None:
    """What a terminal would obey is escaped."""
    assert folder.problem(ISSUER + '"\\e[31m": 1\n').isprintable()


# The environment


def test_the_environment_alone_is_enough() -> None:
    """A key, issuers and audiences in the environment need no file; everything else is its default."""
    config = load(None, ENVIRONMENT)

    assert [each.issuer for each in config.identity.jwt] == ["https://a.example.com", "https://b.example.com"]
    assert config.identity.jwt[0].audiences == ("genops", "other")
    assert config.identity.jwt[0].keys.pem == rsa_pair().public_pem()
    assert config.tiers["premium"].limit == Rate(10_000, "hour")
    assert config.default_tier == "free"


def test_the_environments_key_may_be_of_any_kind() -> None:
    """JWT_PUBLIC_KEY may be an elliptic curve's key as well."""
    config = load(None, ENVIRONMENT | {"JWT_PUBLIC_KEY": ec_pair().public_pem().decode()})

    assert "ES256" in config.identity.jwt[0].algorithms


def test_the_environment_wins(folder: Folder) -> None:
    """REDIS_URL and LOG_LEVEL go over the file, the latter in any case and with logrus' names."""
    config = folder.load(
        ISSUER + "log: {level: error}\nstore: {url: 'redis://a', key_prefix: x}\n",
        {"REDIS_URL": "redis-ratelimit.kong:6379", "LOG_LEVEL": "WARN"},
    )

    assert (config.store.url, config.store.key_prefix) == ("redis://redis-ratelimit.kong:6379/0", "x")
    assert config.log.level == "warning"


@pytest.mark.parametrize(
    "environ", [{"REDIS_URL": f"redis://genops:{SECRET}@redis"}, {"REDIS_PASSWORD": SECRET + "\n"}]
)
def test_the_environment_may_hold_the_password(folder: Folder, environ: dict[str, str]) -> None:
    """A password from the environment is kept, and shows in no repr."""
    config = folder.load(ISSUER + "store: {url: 'redis://redis'}\n", environ)
    assert config.store.password is not None

    assert config.store.password.get_secret_value() == SECRET
    assert SECRET not in repr(config) + str(config.store.password) + "".join(summary(config))
    assert SECRET not in config.store.url


def test_a_password_may_stand_in_a_file(folder: Folder) -> None:
    """A password file is read without its last line break."""
    (folder.path / "pw").write_text(SECRET + "\n")
    config = folder.load(ISSUER + "store: {url: 'redis://redis', password_file: pw}\n")
    assert config.store.password is not None

    assert config.store.password.get_secret_value() == SECRET


def test_a_password_comes_from_one_place(folder: Folder) -> None:
    """Two passwords are refused, by name."""
    (folder.path / "pw").write_text(SECRET)
    text = ISSUER + "store: {url: 'redis://redis', password_file: pw}\n"

    assert "REDIS_PASSWORD and store.password_file both give" in folder.problem(text, {"REDIS_PASSWORD": SECRET})


def test_a_password_without_a_store_is_a_mistake(folder: Folder) -> None:
    """A password while every replica would have a store of its own is refused: somebody forgot the URL."""
    assert "store.url: REDIS_PASSWORD gives a password" in folder.problem(ISSUER, {"REDIS_PASSWORD": SECRET})


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"REDIS_URL": ""}, "env REDIS_URL: is set but empty"),
        ({"REDIS_URL": "valkeys://redis"}, "env REDIS_URL: write rediss://HOST:PORT"),
        ({"REDIS_URL": "redis://:p@ss@redis"}, "env REDIS_URL: not a store"),
        ({"REDIS_PASSWORD": " "}, "env REDIS_PASSWORD: is set but empty"),
        ({"LOG_LEVEL": "loud"}, "env LOG_LEVEL: must be debug, info, warning or error"),
        ({"ALLOWED_ISSUERS": "i"}, "env ALLOWED_ISSUERS: identity.jwt or .hmac in the file says whom to believe"),
        ({"ALLOWED_AUDIENCES": "a"}, "env ALLOWED_AUDIENCES: identity.jwt or .hmac in the file says"),
        ({"JWT_PUBLIC_KEY": "x"}, "env JWT_PUBLIC_KEY: identity.jwt or .hmac in the file says"),
    ],
)
def test_a_variable_that_cannot_be_used(folder: Folder, environ: dict[str, str], problem: str) -> None:
    """A variable that is set and means nothing, or contradicts the file, is an error under its name."""
    assert folder.problem(ISSUER, environ).startswith(problem)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"JWT_PUBLIC_KEY": "x"}, "env JWT_PUBLIC_KEY: 0 PEM blocks"),
        ({"JWT_PUBLIC_KEY": rsa_pair().private_pem().decode()}, "env JWT_PUBLIC_KEY: this is a private key"),
        ({"JWT_PUBLIC_KEY": ""}, "env JWT_PUBLIC_KEY: is set but empty"),
        ({"JWT_PUBLIC_KEY": None}, "env JWT_PUBLIC_KEY: is not set; JWT_PUBLIC_KEY, ALLOWED_ISSUERS,"),
        ({"ALLOWED_AUDIENCES": None}, "env ALLOWED_AUDIENCES: is not set"),
        ({"ALLOWED_AUDIENCES": ","}, "env ALLOWED_AUDIENCES: an empty list would accept"),
        ({"ALLOWED_ISSUERS": "i,i"}, "env ALLOWED_ISSUERS: the same issuer"),
        ({"ALLOWED_ISSUERS": "a\tb"}, "env ALLOWED_ISSUERS: must be 1 to 256 visible"),
        ({"ALLOWED_ISSUERS": ","}, "env ALLOWED_ISSUERS: there is nobody to believe"),
    ],
)  # fmt: skip
def test_issuers_of_the_environment_that_cannot_be_used(changes: dict[str, str | None], problem: str) -> None:
    """Issuers from the environment need all three variables, each usable; each mistake is told once."""
    environ = {name: text for name, text in (ENVIRONMENT | changes).items() if text is not None}

    with pytest.raises(ConfigError) as raised:
        load(None, environ)
    assert str(raised.value).startswith(problem)
    assert len(raised.value.problems) == 1
    assert "PRIVATE KEY-----" not in str(raised.value)


# Secrets


@pytest.mark.parametrize(
    "text",
    [
        f"store: {{url: 'redis://:{SECRET}@redis'}}",
        f"store: {{url: 'redis://u:{SECRET}@redis:x'}}",
        f"store: {{url: {SECRET}}}",
        f"store: {{password: {SECRET}}}",
        f"store: {{password_file: {SECRET}}}",
        f"store: {{url: redis+sentinel://a/m, sentinel_password_file: {SECRET}}}",
        f"store: {{per_second: {{url: 'redis://:{SECRET}@redis'}}}}",
        f"store: {{per_second: {{url: redis, password_file: {SECRET}}}}}",
        f"rate_limits: {{xds: {{server: 'a:1', headers: {{Authorization: {SECRET}}}}}}}",
        f"rate_limits: {{xds: {{server: 'a:1', headers: {{authorization: [{SECRET}]}}}}}}",
        f"store: {SECRET}",
        f"api_token: {SECRET}",
        f"unknown: {{deep: [{SECRET}]}}",
        f"identity: {{jwt: [{{client_secret: {SECRET}}}]}}",
        f"identity: {{jwt: [{issuer(keys={'jwks_uri': f'https://u:{SECRET}@a/'})}]}}",
        f"identity: {{jwt: [{issuer(keys={'jwks_uri': f'ftp://a/?key={SECRET}'})}]}}",
        f"identity: {{jwt: [{issuer(keys={'public_key_env': SECRET})}]}}",
        f"identity: {{hmac: [{secret_issuer(secret_env=SECRET)}]}}",
        f"identity: {{hmac: [{secret_issuer(secret_env=None, secret_file=SECRET)}]}}",
        f"identity: {{hmac: [{secret_issuer(secret=SECRET)}]}}",
        f"a: &x [{SECRET}\nb: *y",
        f"store: {{password: *{SECRET}}}",
        f"store: {{password: !{SECRET}}}",
        f"store: {{password: &{SECRET}}}",
        f"store: {{password: '{SECRET}}}",
    ],
)
def test_no_secret_is_ever_told(folder: Folder, text: str) -> None:
    """A secret in a place where it does not belong is refused without being repeated."""
    told = "".join(f"{problem} {problem!r}" for problem in folder.problems(text, {"REDIS_PASSWORD": SECRET}))

    assert SECRET not in told


def test_a_password_in_the_file_is_told_where_it_belongs(folder: Folder) -> None:
    """A password in the file, alone or in a URL, is refused with the places it may be."""
    assert "store.password_file or REDIS_PASSWORD" in folder.problem(f"{ISSUER}store: {{url: 'redis://:{SECRET}@a'}}")
    second = folder.problem(f"{ISSUER}store: {{per_second: {{url: 'redis://:{SECRET}@a'}}}}")
    assert "put it into store.per_second.password_file, and leave it out here" in second
    assert "use a *_file setting or an environment variable" in folder.problem(f"{ISSUER}store: {{password: x}}")


# What the rest relies on


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ("tiers: {free: {limit: 1/hour}}\nrate_limits: {headers: false}\nstore: {key_prefix: x}", ()),
        ("log: {level: debug}\nserver: {drain_delay: 1s}", ("drain_delay", "level")),
        ("server: {grpc: 'unix:/a', http: '127.0.0.1:1', transport: grpcio}", ("grpc", "http", "transport")),
        ("store: {url: 'a:1', timeout: 1s}", ("url", "timeout")),
        ("store: {url: 'rediss://a', tls: {server_name: b}, per_second: {url: c}}", ("url", "tls", "per_second")),
        ("store: {denial_cache: false, hash_tag: a, outage: {allowance: 0%, then: open}}", ("denial_cache",)),
        ("server: {debug: '127.0.0.1:1', json_limits: true}", ("debug", "json_limits")),
        ("server: {services: [rate_limits]}", ("services",)),
        ("rate_limits: {xds: {server: 'a:1'}, metric_series: 1}", ("xds", "metric_series")),
        ("rate_limits: {shadow_mode: true, body: none, near_limit_ratio: 90%, ietf_headers: true}", ()),
    ],
)
def test_what_takes_a_restart(folder: Folder, changes: str, changed: tuple[str, ...]) -> None:
    """Addresses, the store, the log and how to stop are named when they change; what a reload can change is not."""
    named = restart_only(folder.load(ISSUER), folder.load(ISSUER + changes))

    assert tuple(name.partition(".")[2] for name in named) == changed


def test_a_new_password_takes_a_restart(folder: Folder) -> None:
    """Another password is a change, and is named without being shown."""
    text = ISSUER + "store: {url: 'redis://a'}\n"
    old, new = folder.load(text, {"REDIS_PASSWORD": "a"}), folder.load(text, {"REDIS_PASSWORD": "b"})

    assert restart_only(old, new) == ("store.password",)
    assert restart_only(old, old) == ()


def test_another_password_of_the_second_store_takes_a_restart(folder: Folder) -> None:
    """Its password is a part of the store for limits per second."""
    text = ISSUER + "store: {per_second: {url: 'redis://a', password_file: pw}}\n"
    (folder.path / "pw").write_text("one")
    old = folder.load(text)
    (folder.path / "pw").write_text("two")

    assert restart_only(old, folder.load(text)) == ("store.per_second",)


def test_a_store_knows_how_to_be_let_in(folder: Folder) -> None:
    """Where the stores are comes with passwords and with files that start at the configuration's folder."""
    for name in ("ca.pem", "pw", "spw", "ppw"):
        (folder.path / name).write_text(f"{SECRET}-{name}\n")
    store = folder.load(
        ISSUER
        + """\
store:
  url: redis+sentinel+tls://genops@a,b/primary
  password_file: pw
  sentinel_password_file: spw
  tls: {ca_file: ca.pem, server_name: redis.internal}
  per_second: {url: "rediss://c", password_file: ppw}
"""
    ).store
    here = store.target(folder.path)

    assert (here.user, here.password, here.sentinel_password) == ("genops", f"{SECRET}-pw", f"{SECRET}-spw")
    assert here.tls == Tls(ca_file=str(folder.path / "ca.pem"), server_name="redis.internal")
    assert store.per_second is not None
    second = store.per_second.target(store.tls.options(folder.path))
    assert (second.address, second.password, second.tls) == ("rediss://c:6379/0", f"{SECRET}-ppw", here.tls)
    assert store.target(folder.path, "unix:///run/a.sock").address == "unix:///run/a.sock"
    assert SECRET not in repr((store, here, second))


def test_a_password_of_sentinels_needs_some(folder: Folder) -> None:
    """A password of sentinels is refused where the store's URL names none."""
    (folder.path / "pw").write_text(SECRET)
    text = ISSUER + "store: {url: 'redis://a', sentinel_password_file: pw}\n"

    assert "store.sentinel_password_file: store.url names no sentinels: leave this out" in folder.problem(text)


# Limits in files

SEED = """\
domain: seed
descriptors:
  - key: customer_tier
    value: free
    rate_limit: {unit: minute, requests_per_unit: 10}
"""


def limits(folder: Folder, **files: str) -> str:
    """A configuration that names a folder with these files."""
    (folder.path / "limits").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder.path / "limits" / f"{name}.yaml").write_text(text)
    return ISSUER + "rate_limits: {directory: limits}\n"


def test_limits_come_from_files(folder: Folder) -> None:
    """The files of a directory declare domains; `tiers` limit beside them only where they are written down."""
    text = limits(folder, seed=SEED)
    alone, beside = folder.load(text), folder.load(text + "tiers: {free: {limit: 1/hour}}\n")

    assert [domain.name for domain in alone.rate_limits.domains] == ["seed"]
    assert (alone.tree().knows(b"seed"), alone.tree().knows(b"genops")) == (True, False)
    assert (beside.tree().knows(b"seed"), beside.tree().knows(b"genops")) == (True, True)


def test_what_may_not_mean_what_it_says(folder: Folder) -> None:
    """What loads and may mean something else than its writer thinks is kept, to be told."""
    config = folder.load(limits(folder, seed=SEED))

    assert [remark.partition(": ")[2] for remark in config.rate_limits.remarks] == [
        "is one bucket, for all customers together; for one each, write the key customer_id below it"
    ]


def test_an_empty_folder_is_told(folder: Folder) -> None:
    """A folder without files loads, and it is said that it limits nothing."""
    assert any("holds no files" in remark for remark in folder.load(limits(folder)).rate_limits.remarks)


def test_files_of_one_domain(folder: Folder) -> None:
    """Two files may speak of one domain only where that is allowed."""
    text = limits(folder, one=SEED, two=SEED.replace("free", "gold"))

    assert "limits/two.yaml:1: domain: two.yaml: duplicate domain 'seed' in config file" in folder.problem(text)
    merged = folder.load(text.replace("limits}", "limits, merge_domains: true}"))
    assert len(list(merged.tree().lines())) == 2


def test_everything_wrong_in_all_files_is_told_at_once(folder: Folder) -> None:
    """What is wrong with the file and with the files of its directory comes together, file by file."""
    text = limits(
        folder,
        a="domain: a\ndescriptors:\n  - {key: k, rate_limit: {unit: fortnight, requests_per_unit: 1}}\n",
        b="domain: [\n",
        c=SEED,
    )
    problems = folder.problems(f"{text}log: {{level: loud}}\nserverr: {{}}\n", {"LOG_LEVEL": ""})

    assert [(each.file.rpartition("/")[2], each.line, each.path) for each in problems] == [
        ("genops.yaml", 7, "log.level"),
        ("genops.yaml", 8, "serverr"),
        ("a.yaml", 3, "descriptors[0].rate_limit.unit"),
        ("b.yaml", 2, ""),
        ("", None, "env LOG_LEVEL"),
    ]


def test_tiers_and_files_of_one_domain(folder: Folder) -> None:
    """A file may add to the domain of `tiers`, and not say otherwise of what they limit."""
    tiers = "tiers: {free: {limit: 1/hour}}\n"
    more = "domain: genops\ndescriptors: [{key: path, rate_limit: {unit: second, requests_per_unit: 1}}]\n"

    assert folder.load(limits(folder, more=more) + tiers).tree().knows(b"genops")
    found = folder.problem(limits(folder, more=SEED.replace("seed", "genops")) + tiers)
    assert found.startswith('genops.yaml:6: rate_limits.directory: "limits": more.yaml: ')


def test_limits_alone_need_no_identity(folder: Folder) -> None:
    """Where rate limits alone are served, there is nobody to believe."""
    assert folder.load("server: {services: [rate_limits]}\n").identity.jwt == ()


def test_what_a_management_server_is_told_is_frozen(folder: Folder) -> None:
    """Its headers and our metadata cannot be changed once they are loaded."""
    xds = folder.load(ISSUER + "rate_limits: {xds: {server: 'a:1', headers: {x-a: b}}}").rate_limits.xds
    assert xds is not None

    for mapping in (xds.headers, xds.node_metadata):
        with pytest.raises(TypeError):
            mapping["x-b"] = "c"  # type: ignore[index]  # what is tested


# What it comes to


def test_the_default_tier(folder: Folder) -> None:
    """An unknown tier is the default's; where every token must name its tier, it is the slowest."""
    tiers = "tiers: {a: {limit: 100/minute}, b: {limit: 1000/hour}, c: {limit: 1/second}}\n"

    assert folder.load(ISSUER + tiers + "governance: {defaults: {customer_tier: c}}").default_tier == "c"
    strict = folder.load(ISSUER + tiers + "governance: {required: [customer_tier]}")
    assert strict.default_tier == "b"
    assert strict.governance.defaults == {}


@given(st.text(st.characters(max_codepoint=0x17F), max_size=300) | st.from_regex(r"[a-z ,~!-]{1,9}"))
def test_a_default_is_what_a_token_may_say(value: str) -> None:
    """A default value is accepted exactly where a claim of that value would be."""
    data = {"identity": {"jwt": [json.loads(issuer())]}, "governance": {"required": [], "defaults": {"team": value}}}
    try:
        Config.model_validate(data)
        accepted = True
    except ValidationError:
        accepted = False

    assert accepted == (claims.attributes({"team": value}, {"team": ("team",)}, {}) == {"team": value})


# Fuzz

KEYS = st.sampled_from([*sorted(settings_of(Config)), "free", "team", "<<", "~", ""])
SCALARS = st.none() | st.text(max_size=8) | st.sampled_from(
    ["5s", "1/hour", "none", "GET", "/a", "https://a/", "127.0.0.1:0", "embedded:", "true", "7", "RS256", "free"]
)  # fmt: skip
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=25
)
EXAMPLE_DATA = yaml.safe_load(EXAMPLE.read_text())


def loads_or_tells(tmp_path_factory: pytest.TempPathFactory, data: bytes, environ: Mapping[str, str]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    try:
        load(path, environ)
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - both outcomes are right
        assert all(str(each).isprintable() and each.message != UNTRANSLATED for each in error.problems)  # noqa: PT017


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="ignore")))
def test_any_bytes_load_or_are_told(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes as a file give a configuration or `ConfigError`."""
    loads_or_tells(tmp_path_factory, data, {})


@given(document=DOCUMENTS, section=st.sampled_from(sorted(Config.model_fields)), environ=st.data())
def test_any_document_loads_or_is_told(
    tmp_path_factory: pytest.TempPathFactory, document: Any, section: str, environ: st.DataObject
) -> None:
    """Any document of our keys, whole or in place of a section of the example, loads or gives `ConfigError`."""
    variables = environ.draw(
        st.dictionaries(
            st.sampled_from(["REDIS_URL", "REDIS_PASSWORD", "LOG_LEVEL", *ENVIRONMENT]), st.text(max_size=9)
        )
    )
    for data in (document, EXAMPLE_DATA | {section: document}):
        loads_or_tells(tmp_path_factory, yaml.safe_dump(data).encode(), variables)
