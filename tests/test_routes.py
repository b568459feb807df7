"""Which route a request falls under."""

import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.hosts import host_of
from genops_extauth.model import Request
from genops_extauth.paths import decoded, is_plain, pattern
from genops_extauth.reasons import Reason
from genops_extauth.routes import Credential, Route, Routes

ACCEPTED: tuple[Credential, ...] = ("jwt", "api_key")


def route(
    name: str,
    path: str = "/{rest=**}",
    method: str = "",
    *,
    hosts: tuple[str, ...] = (),
    context: Mapping[str, str] | None = None,
    escaped_slashes: bool = False,
) -> Route:
    methods = frozenset({method} if method else ())
    return Route(name, hosts, methods, pattern(path), context or {}, escaped_slashes=escaped_slashes)


def found(
    routes: list[Route], path: str, method: str = "GET", host: str = "", context: Mapping[str, str] | None = None
) -> Route:
    return Routes(routes, ACCEPTED).find(Request(method, path, host, {}, context=context or {}))


def test_the_first_in_the_file_decides() -> None:
    """Of several routes that match the first one wins, exact or not."""
    routes = [
        route("a", "/v1/{x}", "POST"),
        route("b", "/v1/models"),
        route("c", "/v1/{rest=**}"),
        route("d", "/{x}/m"),
    ]

    assert found(routes, "/v1/models").name == "b"
    assert found(routes, "/v1/models", "POST").name == "a"
    assert found(routes, "/v1/m").name == "c"
    assert found(routes, "/v2/m").name == "d"


def test_what_matches_nothing_needs_any_configured_credential() -> None:
    """Without a match the route has no name, asks, and takes what is configured."""
    default = found([route("a", "/a")], "/b")

    assert (default.name, default.accepts, default.asks, default.refusal) == ("", ACCEPTED, True, None)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.example.com", "exact"),
        ("API.example.com:8443", "exact"),
        ("api.example.com.", "exact"),
        ("a.example.com", "below"),
        ("a.b.example.com", "below"),
        ("example.com", ""),
        ("badexample.com", ""),
        ("[2001:DB8::1]:80", "address"),
        ("[2001:db8::2]", ""),
        ("", ""),
        ("api.example.com@evil.test", ""),
    ],
)
def test_hosts_are_whole_names(host: str, name: str) -> None:
    """A host matches whole, without its port; a wildcard takes one label or more; no host matches no host."""
    routes = [
        route("exact", hosts=("api.example.com",)),
        route("below", hosts=(".example.com",)),
        route("address", hosts=("[2001:db8::1]",)),
    ]

    assert found(routes, "/", host=host).name == name


@pytest.mark.parametrize(
    "host", ["user@api.example.com", "api.example.com:80:80", "api%2eexample.com", "api..example.com", "[::1%25lo]"]
)
def test_what_is_no_host_gets_around_none(host: str) -> None:
    """Where routes have hosts, an authority that others could read as one of them is refused, with any credential."""
    named = [route("a", hosts=("api.example.com",)), route("b", "/b")]

    assert found(named, "/b", host=host).refusal is Reason.REQUEST_MALFORMED
    assert found(named[1:], "/b", host=host).name == "b"


def test_the_order_holds_between_hosts_and_paths() -> None:
    """A route of any host that stands first wins over one of the very host, and the other way round."""
    a, b = route("any", "/v1/{x}"), route("host", "/v1/a", hosts=("a.test",))

    assert found([a, b], "/v1/a", host="a.test").name == "any"
    assert found([b, a], "/v1/a", host="a.test").name == "host"


def test_context_must_be_equal() -> None:
    """What the gateway says of its route has to hold each pair that our route names."""
    routes = [route("a", context={"tenant": "a", "zone": "1"})]

    assert found(routes, "/", context={"tenant": "a", "zone": "1", "more": "x"}).name == "a"
    assert found(routes, "/", context={"tenant": "a"}).name == ""
    assert found(routes, "/", context={"tenant": "b", "zone": "1"}).name == ""


def test_readings_that_lead_to_different_routes_are_refused() -> None:
    """An escape is no way around a route: both readings of a path lead to one route, or the path to none."""
    routes = [route("pull", "/v1/models:pull", "GET"), route("model", "/v1/{model}/x"), route("rest", "/v2/{x=**}")]

    assert found(routes, "/v1/models:pull").name == "pull"
    assert found(routes, "/v1/models%3Apull").refusal is Reason.PATH_NOT_CANONICAL
    assert found(routes, "/v1/a%3A0/x").name == "model"
    assert found(routes, "/elsewhere/a%20b").refusal is None


def test_slashes_are_escaped_where_a_route_says_so() -> None:
    """A %2F passes only on a route that takes it, and whose rest takes the slash itself too."""
    models = route("models", "/v1/models/{model=**}", escaped_slashes=True)
    plain = route("plain", "/v2/{rest=**}")
    inner = route("inner", "/v1/models/secret/x")

    assert found([models], "/v1/models/meta-llama%2FLlama-3").name == "models"
    assert found([inner, models], "/v1/models/secret%2Fx").refusal is Reason.PATH_NOT_CANONICAL
    for path in ("/v2/a%2Fb", "/v1%2Fmodels/x", "/v1/models/a%2F..%2Fb", "/v1/models/a%2F%2Fb", "/elsewhere%2Fb"):
        assert found([models, plain], path).refusal is Reason.PATH_NOT_CANONICAL, path


PARTS = ["a", "b", "", "..", ".", "a%2Fb", "%61", "a:b", "a%3Ab", ";", "%252e"]
PATHS = st.lists(st.sampled_from(PARTS), max_size=4).map("/".join).map("/".__add__)
TEMPLATES = st.sampled_from(
    ["/", "/a", "/a/", "/a:b", "/a/b", "/{x}", "/a/{x}", "/{x}/b", "/{x}/{y}", "/a/{r=**}", "/{x}/b/{r=**}", "/{r=**}"]
)
HOSTS = st.sampled_from(["", "a.test", "b.a.test", "A.test:80", "test"])
ROUTES = st.lists(
    st.builds(
        Route,
        name=st.just(""),
        hosts=st.sampled_from([(), ("a.test",), (".test",), (".a.test", "test")]),
        methods=st.sampled_from([frozenset(), frozenset({"GET"}), frozenset({"GET", "POST"})]),
        path=TEMPLATES.map(pattern),
        context=st.sampled_from([{}, {"t": "1"}]),
        asks=st.booleans(),
    ),
    max_size=8,
)
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "PUT"]),
    path=PATHS,
    host=HOSTS,
    headers=st.just({}),
    context=st.sampled_from([{}, {"t": "1"}]),
)


def naive(routes: list[Route], request: Request) -> Route | None:
    """The first of the routes that takes a request, looked for one after the other."""
    host, segments = host_of(request.host), request.path[1:].split("/")
    for each in routes:
        own = each.path.segments
        fits = len(segments) > len(own) if each.path.rest else len(segments) == len(own)
        if (
            fits
            and all(mine == its or (mine is None and its) for mine, its in zip(own, segments, strict=False))
            and (not each.hosts or any(host == name or (name[0] == "." and host.endswith(name)) for name in each.hosts))
            and (not each.methods or request.method in each.methods)
            and all(request.context.get(name) == value for name, value in each.context.items())
        ):
            return each
    return None


@given(ROUTES, REQUESTS)
def test_matching_equals_a_naive_search(routes: list[Route], request: Request) -> None:
    """The index finds for every plain path what trying one route after the other finds."""
    if is_plain(request.path):
        result, expected = Routes(routes, ACCEPTED).find(request), naive(routes, request)
        assert result is expected or (expected is None and result not in routes)


@given(ROUTES, REQUESTS)
def test_no_ambiguous_path_matches(routes: list[Route], request: Request) -> None:
    """A path with several readings is nobody's: it asks for a credential, and is refused with one."""
    result = Routes(routes, ACCEPTED).find(request)
    if not is_plain(request.path) and (decoded(request.path) is None or "%2F" in request.path):
        assert result not in routes
        assert result.asks
        assert result.refusal is Reason.PATH_NOT_CANONICAL


@given(ROUTES.filter(lambda routes: len(routes) > 1), REQUESTS)
def test_a_hidden_route_is_never_found(routes: list[Route], request: Request) -> None:
    """A route that one before it hides is never the first to match."""
    result = Routes(routes, ACCEPTED).find(request)
    for place, each in enumerate(routes):
        if result is each:
            assert not any(before.hides(each) for before in routes[:place])


def test_hundreds_of_routes_cost_what_few_do() -> None:
    """A path is found by itself, and not by trying all: a thousand routes take no ten times what ten take."""

    def cost(number: int) -> float:
        routes = Routes(
            [
                each
                for i in range(number)
                for each in (route("e", f"/v1/e{i}"), route("t", f"/v1/t{i}/{{id}}"), route("h", hosts=(f"h{i}.test",)))
            ],
            ACCEPTED,
        )
        asked = [Request("GET", path, f"h{number - 1}.test", {}) for path in (f"/v1/e{number - 1}", "/v1/tx/1")]
        return min(_timed(routes, asked) for _ in range(5))

    assert cost(1000) < 10 * cost(10)


def _timed(routes: Routes, asked: list[Request]) -> float:
    started = time.perf_counter()
    for _ in range(100):
        for request in asked:
            routes.find(request)
    return time.perf_counter() - started
