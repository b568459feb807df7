import pytest

from genops_extauth.key_places import Places
from genops_extauth.model import Denied, Request
from genops_extauth.reasons import Reason

KEY = b"gxk_0123456789abcdef_secret"
OTHER = b"gxk_abcdef0123456789_secret"
AMBIGUOUS = Denied(Reason.CREDENTIALS_AMBIGUOUS)
EVERYWHERE = Places("x-api-key", bearer=True, query="api_key")


def request(query: str = "", repeated: frozenset[str] = frozenset(), **headers: bytes) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", "/", "host", named, repeated, query=query)


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (request(), None),
        (request(x_api_key=KEY), KEY),
        (request(x_api_key=b""), b""),
        (request(x_api_key=b"anything"), b"anything"),
        (request(authorization=b"Bearer " + KEY), KEY),
        (request(authorization=b"bearer  " + KEY), KEY),
        (request(authorization=b"Bearer eyJ.e30.x"), None),
        (request(authorization=b"Basic " + KEY), None),
        (request(authorization=KEY), None),
        (request(authorization=b"Bearer eyJ.e30.x", x_api_key=KEY), KEY),
        (request(authorization=b"Basic eDp5", x_api_key=KEY), KEY),
        (request("api_key=" + KEY.decode()), KEY),
        (request("a=1&api_key=gxk%5F1&b=2"), b"gxk_1"),
        (request("API_KEY=x&xapi_key=y&api_key_=z"), None),
        (request("api_key=%zz"), b""),
        (request("api_key=%4"), b""),
        (request("api_key=a+b"), b"a+b"),
        (request("api_key"), b""),
        (request("api%5Fkey=x"), b""),
        (request("api_key=x&api_key=x"), AMBIGUOUS),
        (request("api_key=x&api%5fkey=y"), AMBIGUOUS),
        (request(x_api_key=KEY + b"," + KEY, repeated=frozenset({"x-api-key"})), AMBIGUOUS),
        (request(authorization=b"Bearer " + KEY + b",Basic x", repeated=frozenset({"authorization"})), AMBIGUOUS),
        (request(authorization=b"Bearer " + KEY, x_api_key=KEY), AMBIGUOUS),
        (request(authorization=b"Bearer " + KEY, x_api_key=OTHER), AMBIGUOUS),
        (request("api_key=x", x_api_key=KEY), AMBIGUOUS),
        (request("api_key=x", authorization=b"Bearer " + KEY), AMBIGUOUS),
    ],
)
def test_a_key_is_found_where_it_may_be(asked: Request, key: bytes | Denied | None) -> None:
    """A request has one key, in one place, in one spelling; two are refused, be they equal or not."""
    assert EVERYWHERE.key(asked) == key
    assert EVERYWHERE.presented(asked) == (key is not None)


@pytest.mark.parametrize("places", [Places(bearer=False), Places("x-other", bearer=False)])
@pytest.mark.parametrize("asked", [request(authorization=b"Bearer " + KEY), request("api_key=" + KEY.decode())])
def test_nowhere_else(places: Places, asked: Request) -> None:
    """Where bearer tokens and the query are not configured to hold keys, what they hold is none."""
    assert places.key(asked) is None
    assert not places.presented(asked)
