"""Routes as they are configured."""

from collections.abc import Mapping

import pytest
from pydantic import TypeAdapter, ValidationError

from genops_extauth.body_rules import Models
from genops_extauth.fields import CheckError
from genops_extauth.paths import ANY, pattern
from genops_extauth.reasons import Reason
from genops_extauth.route_sections import Route, Routes, conflicts
from genops_extauth.routes import Requirements

ROUTES: TypeAdapter[tuple[Route, ...]] = TypeAdapter(Routes)


def read(*entries: Mapping[str, object]) -> tuple[Route, ...]:
    return ROUTES.validate_python(entries)


def complaints(*entries: Mapping[str, object]) -> list[tuple[tuple[str | int, ...], str]]:
    """What is wrong, each with its path."""
    with pytest.raises(ValidationError) as caught:
        read(*entries)
    found = []
    for error in caught.value.errors():
        cause = error.get("ctx", {}).get("error")
        below = cause.complaints if isinstance(cause, CheckError) else (((), str(cause or error["msg"])),)
        found += [((*error["loc"], *path), message) for path, message in below]
    return found


def test_an_empty_route_takes_everything_and_asks_for_what_there_is() -> None:
    """What is left out matches everything and demands nothing."""
    (route,) = read({})
    compiled = route.compiled(("jwt", "certificate"))

    assert (compiled.path, compiled.hosts, compiled.methods) == (ANY, (), frozenset())
    assert compiled.accepts == ("jwt", "certificate")
    assert compiled.asks
    assert compiled.requires is None


def test_a_whole_route_is_read() -> None:
    """Every key comes out where the policy looks for it."""
    (route,) = read(
        {
            "name": "chat",
            "hosts": ["API.example.com", "*.example.com", "[2001:DB8::1]"],
            "methods": ["POST"],
            "path": "/v1/{rest=**}",
            "context": {"tenant": "a"},
            "auth": ["api_key", "jwt"],
            "require": {"scopes": ["a"], "roles": ["b c"], "tiers": ["free"], "attributes": {"team": ["ml", "ads"]}},
            "cors": {"origins": ["https://app.example.com", "http://localhost:3000"]},
            "body": {"models": {"free": ["small-*", "tiny"], "*": ["*"]}, "max_tokens": {"free": "1000"}},
            "denials": "problem",
            "escaped_slashes": "true",
        }
    )
    compiled = route.compiled()

    assert (compiled.name, compiled.path, compiled.context) == ("chat", pattern("/v1/{rest=**}"), {"tenant": "a"})
    assert compiled.hosts == ("api.example.com", ".example.com", "[2001:db8::1]")
    assert compiled.methods == {"POST", "OPTIONS"}
    assert compiled.accepts == ("api_key", "jwt")
    assert compiled.requires == Requirements(
        frozenset({"a"}), frozenset({"b c"}), frozenset({"free"}), {"team": frozenset({"ml", "ads"})}
    )
    assert compiled.origins == {b"https://app.example.com", b"http://localhost:3000"}
    assert compiled.body is not None
    assert compiled.body.models["free"] == Models(frozenset({"tiny"}), ("small-",))
    assert compiled.body.max_tokens == {"free": 1000}
    assert (compiled.denials, compiled.escaped_slashes) == ("problem", True)


def test_open_and_refusing_routes_ask_nobody() -> None:
    """`none` lets everybody pass and `refuse` nobody; neither looks at a credential."""
    health, rest = read({"methods": ["GET"], "path": "/healthz", "auth": "none"}, {"auth": "refuse"})

    assert (health.compiled().asks, health.compiled().refusal, health.compiled().accepts) == (False, None, ())
    assert (rest.compiled().asks, rest.compiled().refusal) == (False, Reason.ROUTE_REFUSED)


@pytest.mark.parametrize(
    ("entry", "path", "hint"),
    [
        ({"auth": "jwt"}, ("auth",), "write none, refuse, or a list of jwt, api_key, certificate, anonymous"),
        ({"auth": []}, ("auth",), "write none, refuse, or a list"),
        ({"auth": ["basic"]}, ("auth",), "write none, refuse, or a list"),
        ({"auth": [["jwt"]]}, ("auth",), "write none, refuse, or a list"),
        ({"auth": ["jwt", "jwt"]}, ("auth",), "names something twice"),
        ({"auth": ["anonymous", "jwt"]}, ("auth",), "write it last"),
        ({"auth": ["anonymous"]}, ("auth",), "write none"),
        ({"methods": ["get"]}, ("methods", 0), "methods are upper case: GET"),
        ({"methods": []}, ("methods",), "an empty list matches nothing"),
        ({"path": "/a/../b"}, ("path",), "write it without //, . and .."),
        ({"path": "/v1/*"}, ("path",), "{rest=**} the rest of the path"),
        ({"hosts": ["a.test:80"]}, ("hosts", 0), "write a host without port"),
        ({"hosts": []}, ("hosts",), "an empty list matches nothing"),
        ({"auth": "none", "path": "/a"}, ("methods",), "write which, for example [GET]"),
        ({"auth": "none", "methods": ["GET"]}, ("path",), "an open route is one exact path"),
        ({"auth": "none", "methods": ["GET"], "path": "/a/{b}"}, ("path",), "an open route is one exact path"),
        (
            {"auth": "none", "methods": ["GET"], "path": "/a", "require": {"scopes": ["a"]}},
            ("require",),
            "without a credential",
        ),
        (
            {"auth": "none", "methods": ["GET"], "path": "/a", "cors": {"origins": ["https://a.test"]}},
            ("cors",),
            "add OPTIONS to its methods",
        ),
        ({"auth": ["jwt", "anonymous"], "require": {"tiers": ["a"]}}, ("require",), "without a credential"),
        ({"auth": "refuse", "body": {"max_tokens": {"*": "1"}}}, ("body",), "nobody passes here"),
        ({"escaped_slashes": "true", "path": "/v1/{id}"}, ("escaped_slashes",), "write a path like /v1/{model=**}"),
        ({"escaped_slashes": "true"}, ("escaped_slashes",), "write a path like /v1/{model=**}"),
        ({"require": {"scopes": ["a b"]}}, ("require", "scopes", 0), "without spaces"),
        ({"require": {"scopes": []}}, ("require", "scopes"), "an empty list matches nothing"),
        ({"require": {"attributes": {"team": []}}}, ("require", "attributes", "team"), "an empty list matches nothing"),
        ({"body": {}}, ("body",), "write models or max_tokens"),
        ({"body": {"models": {}}}, ("body", "models"), "name a tier, or *"),
        ({"body": {"models": {"free": []}}}, ("body", "models", "free"), "an empty list matches nothing"),
        ({"body": {"models": {"free": ["a*b"]}}}, ("body", "models", "free", 0), "a * at most at its end"),
        ({"body": {"max_tokens": {"free": "0"}}}, ("body", "max_tokens", "free"), "must be from 1"),
        ({"body": {"max_tokens": {"f*": "1"}}}, ("body", "max_tokens", "f*", "[key]"), "the name of a tier, or *"),
        *(
            ({"cors": {"origins": [origin]}}, ("cors", "origins", 0), "write an origin as browsers send it")
            for origin in (
                "*",
                "null",
                "https://*.example.com",
                "https://app.example.com/",
                "https://App.example.com",
                "https://app.example.com:443",
                "http://app.example.com:80",
                "app.example.com",
                "https://user@app.example.com",
            )
        ),
    ],
)
def test_what_makes_no_sense_is_told(entry: dict[str, object], path: tuple[str | int, ...], hint: str) -> None:
    """Each mistake is told at its place, with what to write instead."""
    ((where, message),) = complaints(entry)

    assert where == (0, *path)
    assert hint in message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"path": "/a"}),
        ({"path": "/v1/{rest=**}"}, {"path": "/v1/{id}", "methods": ["GET"]}),
        ({"path": "/{x}"}, {"path": "/a"}),
        ({"hosts": ["*.a.test"]}, {"hosts": ["b.a.test", "*.c.a.test"]}),
        ({"methods": ["GET", "POST"]}, {"methods": ["GET"], "context": {"a": "b"}}),
        ({"context": {"a": "b"}}, {"context": {"a": "b", "c": "d"}}),
    ],
)
def test_a_route_that_nobody_can_reach_is_told(first: dict[str, object], second: dict[str, object]) -> None:
    """A route after one that takes all its requests is a mistake; the other way round the two make sense."""
    assert complaints(first, second) == [
        ((1,), "no request gets here, for entry [0] takes them all: move it up, or remove it")
    ]
    assert len(read(second, first)) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"path": "/a", "methods": ["GET"]}, {"path": "/a"}),
        ({"hosts": ["a.test"]}, {}),
        ({"hosts": ["*.a.test"]}, {"hosts": ["a.test"]}),
        ({"context": {"a": "b"}}, {"context": {"a": "c"}}),
        ({"path": "/{x}"}, {"path": "/a/"}),
        ({"path": "/v1/{rest=**}"}, {"path": "/v1"}),
        ({"path": "/v1/{id}"}, {"path": "/v1/{rest=**}"}),
    ],
)
def test_routes_that_overlap_are_right(first: dict[str, object], second: dict[str, object]) -> None:
    """A route that leaves something to the next one hides nothing."""
    assert len(read(first, second)) == 2


def test_the_second_of_two_alike_is_told() -> None:
    """Two routes of the same requests are a mistake in either order, whatever they make of them."""
    assert [path for path, _ in complaints({"path": "/a", "auth": "refuse"}, {"path": "/a"})] == [(1,)]
    assert [path for path, _ in complaints({"path": "/a"}, {"path": "/a", "auth": "refuse"})] == [(1,)]


def test_names_are_told_apart() -> None:
    """Two routes of one name could not be told apart in logs and metrics."""
    found = complaints({"name": "a", "path": "/a"}, {"name": "a", "path": "/b"})

    assert found == [((1, "name"), "entry [0] has this name too; choose another")]


def test_routes_ask_for_what_somebody_can_have() -> None:
    """A credential that nobody was configured to have, and a tier that there is not, are told."""
    entries = read(
        {"path": "/a", "auth": ["jwt", "api_key", "anonymous"]},
        {"path": "/b", "require": {"tiers": ["free", "gold"]}},
        {"path": "/c", "body": {"models": {"*": ["*"], "silver": ["x"]}, "max_tokens": {"bronze": "1"}}},
        {"path": "/d", "methods": ["GET"], "auth": "none"},
    )

    assert [path for path, _ in conflicts(entries, ("jwt",), ("free",))] == [
        (0, "auth", 1),
        (1, "require", "tiers", 1),
        (2, "body", "models", "silver"),
        (2, "body", "max_tokens", "bronze"),
    ]
    assert list(conflicts(entries, ("jwt", "api_key"), ("free", "gold", "silver", "bronze"))) == []
