"""REDIS_URL: one server, or the master that Sentinel names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from core.config.redis_options import KNOWN, SHOWN, check_tls, decoded, read_options

SENTINEL_PORT: Final = 26379
PORT: Final = 6379

_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_HOST: Final = re.compile(r"(\[[0-9a-zA-Z:.%]+\]|[^:\[\]\s]+)(?::(\d{1,5}))?")
_ENCODE: Final = "percent-encode user and password: / is %2F, ? is %3F, # is %23, @ is %40"


@dataclass(frozen=True, slots=True)
class Login:
    """User and password; both are None where no login is needed."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """The parts of a Redis URL.

    `redis[s]://[user:password@]host[:port][/db]`, `unix://[user:password@]/path` or
    `redis[s]+sentinel://[user:password@]host[:port],…/service[/db]`, each with `?option=value&…`.

    The login and, with `rediss+sentinel`, TLS are used for the servers and the sentinels.
    `sentinel_login` replaces the login for the sentinels. Sentinels that refuse it are asked
    without one.
    """

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    #: Of the Unix socket.
    path: str = ""
    #: What the sentinels call the master.
    service: str = ""
    db: int = 0
    login: Login = Login()
    sentinel_login: Login = Login()
    #: Further keyword arguments of a connection, to sentinels too.
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    #: Options that the worker sets itself.
    ignored: tuple[str, ...] = ()

    @property
    def is_sentinel(self) -> bool:
        """Whether the hosts are sentinels."""
        return self.scheme.endswith("+sentinel")

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.scheme.startswith("rediss")


def parse_redis_url(url: str) -> RedisAddress:
    """The parts of a URL; raises ValueError with what is wrong, without secrets."""
    # Line breaks are dropped as urllib does: a password from a file may end in one.
    scheme, is_url, rest = re.sub(r"[\t\r\n]", "", url).partition("://")
    scheme = scheme.lower()
    if not is_url or scheme not in _SCHEMES:
        raise ValueError(f"its scheme must be one of {', '.join(_SCHEMES)}")
    authority, path, query = _divided(rest, scheme)
    user, has_login, hosts = authority.rpartition("@")
    sentinel = scheme.endswith("+sentinel")
    options, ignored = read_options(query, tls=scheme.startswith("rediss"), sentinel=sentinel)
    place = _place(scheme, hosts, path)
    if place["db"] is not None and "db" in options and place["db"] != options["db"]:
        raise ValueError("the database and the option db are two different numbers")
    db = options.pop("db", place["db"]) or 0
    asked = Login(options.pop("username", None), options.pop("password", None))
    if has_login and asked != Login():
        raise ValueError("user and password are there twice: before the host and as options")
    sentinel_login = Login(
        options.pop("sentinel_username", None), options.pop("sentinel_password", None)
    )
    return RedisAddress(
        scheme,
        **{**place, "db": db},
        login=_login(user) if has_login else asked,
        sentinel_login=sentinel_login,
        options=options,
        ignored=tuple(ignored),
    )


def check_redis_url(url: str) -> None:
    """Raise ValueError unless a client can be made from a URL."""
    check_tls(parse_redis_url(url).options)


def _divided(rest: str, scheme: str) -> tuple[str, str, str]:
    """Login with hosts, path, and query."""
    if "#" in rest:
        raise ValueError("it has a #: percent-encode it as %23")
    before, _, query = rest.partition("?")
    authority, slash, path = before.partition("/")
    outside = (slash + path) if scheme != "unix" else ""
    is_cut = "@" not in authority and ":" in authority and "@" in rest
    if is_cut or "@" in outside:
        raise ValueError(f"there is a / or a ? before an @: {_ENCODE}")
    return authority, slash + path, query


def _place(scheme: str, hosts: str, path: str) -> dict[str, Any]:
    """Where the servers are, and the database that the path names."""
    if scheme == "unix":
        if hosts or not path.strip("/"):
            raise ValueError("it must have the socket's whole path: unix:///path/redis.sock")
        return {"path": decoded(path, unquote), "db": None}
    first, _, db = path.strip("/").partition("/")
    if scheme.endswith("+sentinel"):
        if not first or not re.fullmatch(r"\d{0,9}", db):
            raise ValueError("the hosts must be followed by /service or /service/db")
        return {
            "hosts": tuple(_host(host, SENTINEL_PORT) for host in hosts.split(",")),
            "service": decoded(first, unquote),
            "db": int(db) if db else None,
        }
    if db or not re.fullmatch(r"\d{0,9}", first):
        raise ValueError(
            "what follows the host must be the number of the database, such as /0 (if it is part "
            f"of a password, {_ENCODE})"
        )
    return {
        "hosts": (_host(hosts or "localhost", PORT),),
        "db": int(first) if first else None,
    }


def _host(text: str, port: int) -> tuple[str, int]:
    if text.startswith(":"):
        text = f"localhost{text}"
    match = _HOST.fullmatch(text)
    if match is None or int(match[2] or port) > 65_535:
        raise ValueError(f"a host is not host:port (if it is part of a password, {_ENCODE})")
    return decoded(match[1].strip("[]"), unquote), int(match[2] or port)


def _login(text: str) -> Login:
    username, _, password = text.partition(":")
    return Login(decoded(username, unquote) or None, decoded(password, unquote) or None)


# -- for people -------------------------------------------------------------------------------


def without_password(text: str) -> str:
    """A Redis URL, or a text that contains one, without logins and other secrets, for logs.

    More is left out than has to be where a URL is not well formed: the password may be any part.
    """
    # A ? may be in a login, and an @ in the query: what may be either is left out.
    text = re.sub(r"(?<!unix)://[^/?#@]+\?.*@[^&]*", "://***?***", text, flags=re.S)
    # A Unix socket's path may have an @. Elsewhere a login is everything up to the last @.
    login = r"(unix://(?=[^/])|(?<!unix)://).*@"
    masked = re.sub(login, r"\1***@", _masked_values(text), flags=re.S)
    return re.sub(r"(\w://)(?!\*\*\*)([^/?#\s]+).*", _masked_hosts, masked, flags=re.S)


def _masked_hosts(match: re.Match[str]) -> str:
    """A login without an @ looks like a host with a port that is no number."""
    hosts = match[2].rstrip(",.;:)'\"")
    is_good = all(_HOST.fullmatch(host) or re.fullmatch(r":\d+", host) for host in hosts.split(","))
    return match[0] if is_good else f"{match[1]}{hosts.partition(':')[0]}:***"


def _masked_values(text: str) -> str:
    """A text in which the query of a URL has only values that may be shown."""
    match = re.search(r"://[^\s?]*\?", text)
    if match is None:
        return text
    shown: list[str] = []
    for part in text[match.end() :].split("&"):
        name, equals, value = part.partition("=")
        is_after_secret = bool(shown) and shown[-1].endswith("***")
        if (equals and name.lower() in SHOWN) or value.startswith("***") or part.startswith("***"):
            shown.append(part)
        elif not is_after_secret:
            shown.append(f"{name}=***" if equals and name.lower() in KNOWN else "***")
    return text[: match.end()] + "&".join(shown)
