import pytest
from hypothesis import given
from hypothesis import strategies as st

from genops_extauth.store_address import Host, Kind, Target, Tls, target


@pytest.mark.parametrize(
    ("text", "url", "user", "password"),
    [
        ("embedded:", "embedded:", "", None),
        ("embedded:/var/lib/genops", "embedded:/var/lib/genops", "", None),
        ("localhost", "redis://localhost:6379/0", "", None),
        ("redis.genops:6380", "redis://redis.genops:6380/0", "", None),
        ("[::1]:7000", "redis://[::1]:7000/0", "", None),
        ("redis://[::1]", "redis://[::1]:6379/0", "", None),
        ("redis://:p%40ss@redis", "redis://redis:6379/0", "", "p@ss"),
        ("redis://genops:pw@redis:7000/2", "redis://genops@redis:7000/2", "genops", "pw"),
        ("redis://gen%40ops@redis/", "redis://gen%40ops@redis:6379/0", "gen@ops", None),
        ("rediss://redis/1", "rediss://redis:6379/1", "", None),
        ("unix:///run/valkey.sock", "unix:///run/valkey.sock", "", None),
        ("unix://me:pw@/run/valkey.sock?db=1", "unix://me@/run/valkey.sock?db=1", "me", "pw"),
        ("redis+sentinel://a,b:7/main", "redis+sentinel://a:26379,b:7/main", "", None),
        ("redis+sentinel+tls://u:p@a:1/main/3", "redis+sentinel+tls://u@a:1/main/3", "u", "p"),
        ("redis+cluster://a,[::1]:7,c", "redis+cluster://a:6379,[::1]:7,c:6379", "", None),
        ("redis+cluster+tls://:p@a/", "redis+cluster+tls://a:6379", "", "p"),
        ("a:65535", "redis://a:65535/0", "", None),
    ],
)
def test_url_is_understood(text: str, url: str, user: str, password: str | None) -> None:
    """A store's URL is read, and can be written again without its password; the address has no user either."""
    found = target(text)
    assert (found.url, found.user, found.password) == (url, user, password)
    assert found.address == url.replace("gen%40ops@", "").replace(f"{user}@", "")
    assert target(found.url).url == url
    assert (found.tls is not None) == ("tls" in text or "rediss" in text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", r"^not a store: write embedded:, redis://HOST:PORT"),
        ("http://secret@a", r"^not a store"),
        ("redis://", r"^not a store"),
        ("redis://secret@:6379", r"^not a store"),
        ("redis://a?password=secret", r"^not a store"),
        ("redis://:p@secret@redis", r"write the characters @ / \? # of a password as %40 %2F %3F %23"),
        ("redis://a/secret", r"^not a store"),
        ("redis://secret@[host", r"^not a store"),
        ("unix:///run/a.sock?password=secret", r"^not a store"),
        ("unix://secret@host/run/redis.sock", r"^not a store"),
        ("unix://", r"^not a store"),
        ("redis://a:65536", r"a port from 1 to 65535"),
        ("a:0", r"a port from 1 to 65535"),
        ("a:1,b:2", r"write redis\+sentinel://HOST:PORT,HOST:PORT/MASTER or redis\+cluster://"),
        ("redis://secret@a:1,b:1/0", r"write redis\+sentinel://.* or redis\+cluster://"),
        ("redis+sentinel://secret@a:1", r"write redis\+sentinel://HOST:PORT,HOST:PORT/MASTER"),
        ("redis+cluster://secret@a:1/3", r"with no database"),
        ("rediss+sentinel://secret@a/m", r"redis\+sentinel\+tls://"),
        ("sentinel://secret@a/m", r"write redis\+sentinel://"),
        ("valkey://secret@a", r"write redis://HOST:PORT"),
        ("valkeys://secret@a", r"write rediss://HOST:PORT"),
        ("/run/valkey.sock", r"unix:///run/valkey.sock"),
        ("embedded:relative", r"absolute path"),
        ("embedded:/", r"absolute path"),
    ],
)
def test_url_that_is_not_understood_is_refused(text: str, hint: str) -> None:
    """Any other URL is refused with what to write instead, and is not repeated: it may hold a password."""
    with pytest.raises(ValueError, match=hint) as raised:
        target(text)
    assert "secret" not in str(raised.value)


@given(st.text(alphabet="redisu+tlcvx:/@,.[]0189%?=# é", max_size=40))
def test_every_text_is_read_or_refused(text: str) -> None:
    """Whatever is written is read, to the same again, or refused with a ValueError."""
    try:
        found = target(text)
    except ValueError:
        return
    assert target(found.url).url == found.url


def test_password_beside_the_url_wins() -> None:
    """A password given beside the URL wins over the one in it; neither stands in a representation."""
    found = target("redis://me:inside@a", password="outside", sentinel_password="sentinels")
    assert (found.password, found.sentinel_password) == ("outside", "sentinels")
    assert not {"inside", "outside", "sentinels"} & set(repr(found).replace("'", " ").split())


def test_tls_options_are_for_urls_that_say_tls() -> None:
    """Options of TLS hold where the URL asks for TLS, and turn nothing on by themselves."""
    options = Tls(ca_file="ca.pem", server_name="store")
    assert target("rediss://a", tls=options).tls == options
    assert target("redis://a", tls=options) == Target(Kind.SERVER, (Host("a", 6379),))
