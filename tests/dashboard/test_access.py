"""The decision who may see the pages."""

import pytest

from ract.dashboard.access import KEYS_MAX, Access, Asked

TOKEN = "a-token-for-tests-0123456789"
BEARER = {"authorization": f"Bearer {TOKEN}"}


def asked(method="GET", target="/ract/overview", local="127.0.0.1", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Asked(method, target, {"host": "127.0.0.1:8787", **named}, local)


def status(access, *args, **kwargs):
    answer = access.judge(asked(*args, **kwargs))
    return None if answer is None else answer.status


@pytest.fixture
def access():
    return Access(TOKEN)


def cookie_of(access):
    answer = access.judge(asked(target=f"/ract/?key={access.new_key()}"))
    return answer.headers["Set-Cookie"].split(";")[0]


def test_token_in_the_header_opens(access):
    assert status(access, **BEARER) is None
    assert status(access, authorization=f"bearer {TOKEN}") is None


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        "Bearer ü",
    ],
)
def test_anything_else_in_the_header_does_not(access, authorization):
    assert status(access, authorization=authorization) == 401
    assert status(access) == 401


def test_token_in_the_query_does_not_open(access):
    """It would stay in histories and logs."""
    assert status(access, target=f"/ract/?key={TOKEN}") == 401


def test_key_opens_once_and_leaves_the_address(access):
    target = f"/ract/actors?a=1&key={access.new_key()}&b="
    answer = access.judge(asked(target=target))
    assert answer.status == 302
    assert answer.headers["Location"] == "/ract/actors?a=1&b="
    cookie = answer.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert status(access, target=target) == 401
    assert status(access, cookie=cookie.split(";")[0]) is None


def test_looking_at_a_link_without_getting_it_keeps_the_key(access):
    target = f"/ract/?key={access.new_key()}"
    assert status(access, "HEAD", target) == 401
    assert status(access, target=target) == 302


def test_key_never_sends_the_browser_to_another_machine(access):
    answer = access.judge(asked(target=f"//evil.example/?key={access.new_key()}"))
    assert answer.headers["Location"] == "/evil.example/"


def test_unused_keys_are_limited(access):
    first = access.new_key()
    for _ in range(KEYS_MAX):
        last = access.new_key()
    assert status(access, target=f"/?key={first}") == 401
    assert status(access, target=f"/?key={last}") == 302


def test_cookie_among_others_opens_and_that_of_another_server_does_not(access):
    mine, other = cookie_of(access), cookie_of(Access(TOKEN))
    assert status(access, cookie=f"a=b; {mine}; c") is None
    assert status(access, cookie=other) == 401
    assert status(access, cookie=mine[:-1]) == 401
    assert status(access, cookie=f"{mine.partition('=')[0]}=") == 401


def test_cookie_does_not_open_for_a_form_of_unknown_origin(access):
    mine = cookie_of(access)
    assert status(access, "POST", cookie=mine) == 403
    assert status(access, "POST", cookie=mine, origin="http://127.0.0.1:8787") is None
    assert status(access, "POST", **BEARER) is None


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "127.0.0.1", "127.8.8.8:80", "[::1]:8787", "10.1.2.3:8787"],
)
def test_own_names_and_addresses_are_hosts(access, host):
    assert status(access, local="10.1.2.3", host=host, **BEARER) is None


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "localhost.evil.example", "10.1.2.4", "0.0.0.0", "127.0.0.1.nip.io"),
        *(
            "localhost/x",
            "user@localhost",
            "localhost,evil.example",
            "localhost:x",
            "[::1",
            "[::2]",
        ),
    ],
)
def test_other_hosts_are_refused_even_with_the_token(access, host):
    assert status(access, local="10.1.2.3", host=host, **BEARER) == 403


def test_further_names_can_be_given():
    access = Access(TOKEN, ["Hub.Example"])
    assert status(access, host="hub.example:8787", **BEARER) is None


def test_mapped_addresses_are_the_same_address(access):
    assert status(access, local="::ffff:10.1.2.3", host="10.1.2.3", **BEARER) is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:9999"),
        *("file://", "http://localhost:8787", "http://127.0.0.1:8787.evil.example", "http://["),
    ],
)
def test_other_origins_are_refused_on_every_method(access, method, origin):
    assert status(access, method, origin=origin, **BEARER) == 403


def test_own_origin_passes(access):
    assert status(access, origin="http://127.0.0.1:8787", **BEARER) is None
    assert status(access, origin="http://127.0.0.1:8787") == 401


def test_health_is_open_to_proper_hosts_only(access):
    assert status(access, target="/health") is None
    assert status(access, target="/health", host="evil.example") == 403
    assert status(access, "POST", "/health") == 401
    assert status(access, target="//x/health") == 401
    assert status(access, target="http://x/health") == 403
