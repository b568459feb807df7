"""`migrate`: a directory and an environment of envoyproxy/ratelimit's -> our configuration, and what will differ."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth import config
from genops_extauth.declared import Descriptor, Domain, Limit
from genops_extauth.differences import differences
from genops_extauth.migrate import Migration, migrate
from genops_extauth.plain_yaml import written
from genops_extauth.ratelimit_environment import ratelimit_overlay
from genops_extauth.strict_yaml import Plain, parse

SECRET = "hunter2-Zq9"
SEED = """\
domain: genops_api
descriptors:
  - key: customer_tier
    value: free
    rate_limit: {unit: hour, requests_per_unit: 100}
"""
ENVIRONMENT = {
    "REDIS_SOCKET_TYPE": "tcp",
    "REDIS_URL": "redis:6379",
    "REDIS_AUTH": f"limiter:{SECRET}",
    "USE_STATSD": "false",
    "LOG_LEVEL": "debug",
    "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
    "CACHE_KEY_PREFIX": "prod",
    "NEAR_LIMIT_RATIO": "0.9",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "limits").mkdir()
    (tmp_path / "limits" / "seed.yaml").write_text(SEED)
    return tmp_path


def migrated(folder: Path, environ: Mapping[str, str]) -> Migration:
    return migrate(folder / "limits", environ)


def loaded(folder: Path, migration: Migration) -> config.Config:
    """The configuration as `serve` reads it, with an environment of its own."""
    (folder / "genops.yaml").write_text(migration.config_yaml)
    return config.load(folder / "genops.yaml", {})


def one(limit: Limit, **more: object) -> tuple[Domain, ...]:
    """A domain with one limit."""
    return (Domain("d", (Descriptor("k", limits=(limit,), **more),)),)  # type: ignore[arg-type] # of the test's making


def about(lines: tuple[str, ...], words: str) -> list[str]:
    return [line for line in lines if words in line]


def test_the_configuration_goes_on_from_the_environment(folder: Path) -> None:
    """What is written loads, and means what the environment meant; the password is in a file that it names."""
    migration = migrated(folder, ENVIRONMENT)
    (folder / "redis-password").write_text(f"{SECRET}\n")
    found = loaded(folder, migration)
    assert migration.problems == ()
    assert found.store.url == "redis://limiter@redis:6379/0"
    assert found.store.password is not None
    assert found.store.password.get_secret_value() == SECRET
    assert (found.store.key_prefix, found.log.level) == ("prod", "debug")
    assert (found.rate_limits.headers, found.rate_limits.header_names.limit) == (True, "RateLimit-Limit")
    assert found.rate_limits.near_limit_ratio == 0.9
    assert found.server.services == ("rate_limits",)
    assert found.rate_limits.directory == str(folder / "limits")


def test_the_configuration_waits_for_its_password(folder: Path) -> None:
    """Until the password's file is there, the configuration does not load: nobody starts without it by oversight."""
    with pytest.raises(config.ConfigError, match=r"store\.password_file.*cannot be read"):
        loaded(folder, migrated(folder, ENVIRONMENT))


def test_every_password_has_its_file(folder: Path) -> None:
    """Each password has a file of its own, named in the configuration and in what is told; none is shown."""
    environ = {
        "REDIS_TYPE": "SENTINEL",
        "REDIS_URL": "mymaster,a:26379",
        "REDIS_AUTH": f"{SECRET}-1",
        "REDIS_SENTINEL_AUTH": f"{SECRET}-2",
        "REDIS_PERSECOND": "true",
        "REDIS_PERSECOND_URL": f"redis://:{SECRET}-3@second:6379",
    }
    migration = migrated(folder, environ)
    files = {"redis-password": 1, "sentinel-password": 2, "redis-per-second-password": 3}
    for name, number in files.items():
        (folder / name).write_text(f"{SECRET}-{number}")
        assert len(about(migration.differences, f"into {name}")) == 1
    store = loaded(folder, migration).store
    assert store.per_second is not None
    kept = [store.password, store.sentinel_password, store.per_second.password]
    assert [password and password.get_secret_value() for password in kept] == [f"{SECRET}-{n}" for n in (1, 2, 3)]
    assert SECRET not in repr(migration)


@pytest.mark.parametrize("environ", [{}, {"REDIS_URL": "/run/redis.sock", "PORT": "9090", "GRPC_UDS": "/run/g.sock"}])
def test_any_environment_will_do(folder: Path, environ: Mapping[str, str]) -> None:
    """What is written for an environment is what the environment means."""
    found = loaded(folder, migrated(folder, environ))
    laid = ratelimit_overlay(environ)
    wanted = config.Config.model_validate(laid.data)
    assert found.server == wanted.server
    assert found.store == wanted.store
    assert found.log == wanted.log


def test_what_comes_from_a_variable_says_so(folder: Path) -> None:
    """A line of the configuration that a variable made ends with the variable's name."""
    lines = migrated(folder, ENVIRONMENT).config_yaml.splitlines()
    assert any(line.startswith("  key_prefix: prod ") and line.endswith("# CACHE_KEY_PREFIX") for line in lines)


def test_the_files_stay(folder: Path) -> None:
    """The directory is read, and neither changed nor copied."""
    migrated(folder, ENVIRONMENT)
    assert [path.read_text() for path in (folder / "limits").iterdir()] == [SEED]


def test_limits_over_xds_are_told_of(folder: Path) -> None:
    """Who names a directory although the environment says xDS gets it, and is told; no header of xDS is written."""
    environ = {"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": f"authorization:{SECRET}"}
    migration = migrated(folder, environ)
    assert loaded(folder, migration).rate_limits.xds is None
    assert about(migration.differences, "rate_limits.xds")
    assert SECRET not in repr(migration)


def test_problems_are_told_together(folder: Path) -> None:
    """What is wrong with the environment and with the files is told at once, each in its place."""
    (folder / "limits" / "wrong.yaml").write_text("domain: x\ndescriptors: [{rate_limit: {unit: hour}}]\n")
    problems = [str(problem) for problem in migrated(folder, {"BACKEND_TYPE": "memcache", "PORT": "x"}).problems]
    assert any(problem.startswith("env BACKEND_TYPE: memcache cannot keep a bucket") for problem in problems)
    assert any(problem.startswith("env PORT: ") for problem in problems)
    assert any("descriptor has empty key" in problem for problem in problems)


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """A directory that cannot be read is a problem that names it."""
    (problem,) = migrate(tmp_path / "nowhere", {}).problems
    assert "nowhere" in str(problem)


@pytest.mark.parametrize(("environ", "told"), [({}, 1), ({"RUNTIME_IGNOREDOTFILES": "true"}, 0)])
def test_dot_files_are_told_of(folder: Path, environ: Mapping[str, str], told: int) -> None:
    """A dot file, which upstream reads unless told otherwise, is told of; Kubernetes' own names are not."""
    (folder / "limits" / ".hidden.yaml").write_text("domain: hidden")
    (folder / "limits" / "..data").mkdir()
    assert len(about(migrated(folder, environ).differences, ".hidden.yaml is not read")) == told


def test_domains_are_merged_where_the_environment_says(folder: Path) -> None:
    """Two files of one domain are a problem, unless MERGE_DOMAIN_CONFIG is set."""
    (folder / "limits" / "more.yaml").write_text("domain: genops_api\n")
    assert migrated(folder, {}).problems
    assert not migrated(folder, {"MERGE_DOMAIN_CONFIG": "1"}).problems


def test_warnings_of_the_environment_are_differences(folder: Path) -> None:
    """What the environment asks for in vain is among the differences."""
    migration = migrated(folder, {**ENVIRONMENT, "USE_STATSD": "true"})
    assert about(migration.differences, "USE_STATSD: statsd is not spoken")
    assert not about(migrated(folder, ENVIRONMENT).differences, "statsd")


def test_the_store_is_told_of(folder: Path) -> None:
    """With a shared store its keys are new ones; without one, every replica counts alone."""
    shared, alone = migrated(folder, ENVIRONMENT).differences, migrated(folder, {}).differences
    assert about(shared, "every limit starts full")
    assert not about(alone, "every limit starts full")
    assert about(alone, "this process counts alone")


def test_variables_that_serve_reads_too(folder: Path) -> None:
    """REDIS_URL and LOG_LEVEL, which would win over the file, are told of where they are set."""
    assert about(migrated(folder, {"LOG_LEVEL": "info"}).differences, "win over the file")
    assert not about(migrated(folder, {}).differences, "win over the file")


def test_lines_do_not_reach_the_terminal_raw(folder: Path) -> None:
    """What a file holds is escaped before a terminal shows it."""
    (folder / "limits" / "seed.yaml").write_text(
        'domain: "a\\e[2J"\ndescriptors: [{key: k, rate_limit: {unit: hour, requests_per_unit: 3}}]\n'
    )
    lines = migrated(folder, {}).lines()
    assert lines[0] == "what will differ:"
    assert about(lines, "a\\x1b[2J")
    assert all(line.isprintable() for line in lines)


def test_rates_are_told_once() -> None:
    """Each rate is told once, the shortest first, in numbers, and says where it is; limit 0 needs no words."""
    limits = [Limit(100, "hour"), *[Limit(10, "second")] * 4]
    domain = Domain("d", tuple(Descriptor(f"k{place}", limits=(limit,)) for place, limit in enumerate(limits)))
    told = about(differences([domain, *one(Limit(0, "second"))]), " at once, and ")
    assert told[0] == (
        "10/second (d: k1; d: k2; d: k3; and 1 more): at most 10 at once, and 10 more come back evenly over each second"
        "; there 20 could pass at once, around the edge of two windows"
    )
    assert told[1].startswith("100/hour (d: k0): at most 100 at once")
    assert len(told) == 2


@pytest.mark.parametrize(
    "limit",
    [
        Limit(10, "second", algorithm="fixed_window"),
        Limit(10, "second", burst=5),
        Limit(10, "second", periods=30),
        Limit(10, "day", calendar="UTC"),
        Limit(unlimited=True),
    ],
)
def test_what_has_no_window_there_is_not_told(limit: Limit) -> None:
    """What is unlimited, or has a key of ours already, needs no words about buckets."""
    assert not about(differences(one(limit)), " at once, and ")


def test_nothing_to_tell() -> None:
    """Where nothing is limited, nothing differs."""
    assert differences(one(Limit(unlimited=True))) == ()


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit(1, "day"), "a day began at 00:00 UTC;"),
        (Limit(1, "week"), "a week began on Thursday, 00:00 UTC;"),
        (Limit(1, "month"), "a month has 30 days"),
        (Limit(1, "year"), "a year 365"),
    ],
)
def test_long_units(limit: Limit, words: str) -> None:
    """Units that have a calendar are told of where they are used, with the key that makes them the calendar's."""
    (line,) = about(differences(one(limit)), words)
    assert "`calendar: UTC`" in line
    assert not about(differences(one(Limit(1, "hour"))), words)


def test_refusals() -> None:
    """That a refused request takes nothing is told unless it was so there; of several limits only where there are."""
    several = (Domain("d", tuple(Descriptor(name, limits=(Limit(1, "hour"),)) for name in "ab")),)
    assert about(differences(several), "takes nothing; there it was counted")
    assert about(differences(several), "nor does it take anything of its other descriptors (d)")
    assert not about(differences(one(Limit(1, "hour"))), "nor does it take anything")
    assert not about(differences(several, stopped=True), "take")


def test_resets_and_refunds() -> None:
    """Where there are limits, what the reset means and what a refund needs is told."""
    told = differences(one(Limit(1, "hour")))
    assert about(told, "the reset that clients and Envoy are told")
    assert about(told, "`allow_refund: true`")


@pytest.mark.parametrize(
    ("descriptor", "named"),
    [
        (Descriptor("remote_address"), "remote_address"),
        (Descriptor("a", "b_c"), "a=b_c"),
        (Descriptor("a", descriptors=(Descriptor("b_c"),)), "b_c"),
        (Descriptor("a", "b"), None),
    ],
)
def test_joined_keys(descriptor: Descriptor, named: str | None) -> None:
    """Keys and values with `_`, which upstream cannot tell apart, are told of by name."""
    told = about(differences([Domain("d", (descriptor,))]), "compared apart")
    assert told == [] if named is None else f"({named})" in told[0]


def test_the_seeds_file(folder: Path) -> None:
    """`customer_tier: free` alone is told to be one bucket for all, with what makes it one each; nested, it is not."""
    (line,) = about(migrated(folder, {}).differences, "one bucket for")
    assert "genops_api: customer_tier=free is one bucket for all customers of tier free together" in line
    assert "nest `key: customer_id` below it" in line
    customer = Descriptor("customer_id", limits=(Limit(100, "hour"),))
    nested = Domain("d", (Descriptor("customer_tier", "free", descriptors=(customer,)),))
    assert not about(differences([nested]), "one bucket for")


def test_overrides() -> None:
    """A domain without descriptors is for limits that requests bring along: their unit is told of."""
    assert about(differences([Domain("d")]), "the unit UNKNOWN")
    assert not about(differences(one(Limit(1, "hour"))), "the unit UNKNOWN")


_VALUES = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), max_size=20)
    | st.sampled_from(
        ["null", "~", "", "true", "0.0.0.0:80", "a: b", "a #b", "- a", "*a", "{", "'", "%", "\x85", "\u2028"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_ :#", min_size=1, max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["server", "a b", "null"]), _VALUES, min_size=1))
def test_what_is_written_is_read_as_it_was(data: dict[str, Plain]) -> None:
    """Whatever data is written as YAML, reading it gives the same data."""
    document = parse(written(data, {("server",): "a remark"}).encode())
    assert document.faults == ()
    assert document.root is not None
    assert document.root.plain() == data
