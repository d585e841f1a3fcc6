"""Who may see the HTTP pages: a pure decision per request.

Theory of operation
-------------------
The pages show code, arguments and logs of whoever computes, and Dask's own pages can stop workers.
So every request is judged by its headers alone, before a handler exists for it:

1. ``Host`` must be an address or name of this machine. Else a web page anywhere could point its own
   name at 127.0.0.1 (DNS rebinding) and read the answers in the name of the person at the browser.
2. ``Origin``, which browsers send along with whatever a page starts, must be the very host and port
   asked. Websockets are not covered by the browser's same-origin rule; this covers them.
3. The request must carry the cluster's token (``Authorization: Bearer ...``) or the cookie. The
   cookie is a random secret of this server, not the token: browsers show cookies to every port of
   a host. It comes from a *key*, which opens the door once, in a link that is printed for a person.

``/health`` says "ok" to anybody with a proper Host, because deployers probe it.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

KEYS_MAX = 64
"""Links that were printed and not yet used; the oldest is forgotten."""

OPEN_PATHS = frozenset({"/health"})
_SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Asked:
    """What the decision looks at."""

    method: str
    target: str  #: path and query, as in the request line
    headers: Mapping[str, str]  #: by lower-case name
    local_address: str  #: the address of this machine that the client connected to


@dataclass(frozen=True)
class Answer:
    """What to answer instead of passing the request on."""

    status: int
    reason: str
    headers: dict[str, str] = field(default_factory=dict)


class Access:
    """The decision, and the secrets it knows.

    Args:
        token: The cluster's join token.
        hosts: Further names under which this machine may be asked, for instance behind a proxy.
    """

    def __init__(self, token: str, hosts: Collection[str] = ()) -> None:
        self._token = token
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._cookie = secrets.token_urlsafe(32)
        # Clusters on one host share the browser's cookies, whatever their ports: names differ.
        self._cookie_name = f"ract-{secrets.token_hex(4)}"
        #: Keys that open the door once, oldest first.
        self._keys: dict[str, None] = {}

    def new_key(self) -> str:
        """A key for one link, which gives a browser the cookie."""
        while len(self._keys) >= KEYS_MAX:
            del self._keys[next(iter(self._keys))]
        key = secrets.token_urlsafe(24)
        self._keys[key] = None
        return key

    def judge(self, asked: Asked) -> Answer | None:
        """Return None if the request may pass, else what to answer."""
        host = asked.headers.get("host", "")
        if not self._is_own(_name_of(host), asked.local_address):
            return Answer(403, f"{host or 'no host'} is not a name of this machine")
        if not asked.target.startswith("/"):
            return Answer(403, "not a path")
        origin = asked.headers.get("origin")
        if origin is not None and not _same_place(origin, host):
            return Answer(403, "asked by a page of another origin")
        if asked.target in OPEN_PATHS and asked.method in _SAFE_METHODS:
            return None
        if self._bears_token(asked.headers.get("authorization", "")):
            return None
        if self._has_cookie(asked.headers.get("cookie", "")):
            # A browser says where a form comes from; who does not is no browser, so no cookie.
            if asked.method not in _SAFE_METHODS and origin is None:
                return Answer(403, "no Origin")
            return None
        return self._let_in_by_key(asked.method, asked.target) or Answer(
            401,
            "This needs the cluster's token: open the link that was printed at the start, which "
            "works once, or send it as Authorization: Bearer <token>.",
            {"WWW-Authenticate": "Bearer"},
        )

    # ------------------------------------------------------------------ the three conditions

    def _is_own(self, name: str, local_address: str) -> bool:
        if name in self._hosts:
            return True
        address = _address(name)
        return address is not None and (
            address.is_loopback or address == _address(local_address.partition("%")[0])
        )

    def _bears_token(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and _equal(given.strip(), self._token)

    def _has_cookie(self, cookies: str) -> bool:
        for each in cookies.split(";"):
            name, _, value = each.strip().partition("=")
            if name == self._cookie_name and _equal(value, self._cookie):
                return True
        return False

    def _let_in_by_key(self, method: str, target: str) -> Answer | None:
        """Take a key from the query; send the browser on with the cookie, without the key."""
        path, _, query = target.partition("?")
        fields = parse_qsl(query, keep_blank_values=True)
        given = [value for name, value in fields if name == "key"]
        if method != "GET" or len(given) != 1:  # HEAD: what previews a link must not use it up
            return None
        for key in list(self._keys):
            if _equal(given[0], key):
                del self._keys[key]
                rest = urlencode([pair for pair in fields if pair[0] != "key"])
                # Not "//host/...", which would be another machine's.
                location = "/" + path.lstrip("/\\") + (f"?{rest}" if rest else "")
                cookie = f"{self._cookie_name}={self._cookie}; Path=/; HttpOnly; SameSite=Lax"
                return Answer(302, "", {"Location": location, "Set-Cookie": cookie})
        return None


def _equal(given: str, expected: str) -> bool:
    """Compare in constant time, so that the time taken tells nothing about the secret."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _name_of(host: str) -> str:
    """The name in a Host header, without the port; "" if it is malformed."""
    try:
        split = urlsplit(f"//{host}")
        if split.path or split.query or split.fragment or split.username is not None:
            return ""
        _ = split.port  # raises if it is no number
        return split.hostname or ""
    except ValueError:
        return ""


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _same_place(origin: str, host: str) -> bool:
    try:
        split = urlsplit(origin)
    except ValueError:
        return False
    return split.scheme in ("http", "https") and split.netloc.lower() == host.lower()
