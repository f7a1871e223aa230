"""The URL of Redis: one server, or the master that Sentinel names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from redis.connection import parse_url

SENTINEL_SCHEMES = {"redis+sentinel": False, "rediss+sentinel": True}
SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """`redis+sentinel://[user:password@]host[:port],host[:port],…/service[/db]`.

    User, password and, with `rediss+sentinel`, TLS are used for the servers and the sentinels.
    Sentinels that refuse the login are asked without one.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    db: int
    username: str | None
    password: str | None
    tls: bool


def is_sentinel(url: str) -> bool:
    """Whether a URL names sentinels instead of a server."""
    return _scheme(url) in SENTINEL_SCHEMES


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def parse_sentinel_url(url: str) -> SentinelUrl:
    """The parts of a sentinel URL; raises ValueError with what is wrong."""
    # Not urlsplit: newer versions expect one host, and refuse a [ after another host.
    netloc, _, path = re.split(r"[?#]", url.partition("://")[2])[0].partition("/")
    login, _, hosts = netloc.rpartition("@")
    username, _, password = login.partition(":")
    service, _, db = path.strip("/").partition("/")
    if not service or not re.fullmatch(r"\d*", db):
        raise ValueError("the hosts must be followed by /service or /service/db")
    sentinels = []
    for host in hosts.split(","):
        match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\[\]]+)(?::(\d{1,5}))?", host)
        if match is None:
            raise ValueError(f"{host!r} is not host:port")
        sentinels.append((match[1].strip("[]"), int(match[2] or SENTINEL_PORT)))
    return SentinelUrl(
        tuple(sentinels),
        unquote(service),
        int(db or 0),
        unquote(username) or None,
        unquote(password) or None,
        SENTINEL_SCHEMES[_scheme(url)],
    )


def check_redis_url(url: str) -> None:
    """Raise ValueError unless a client can be made from a URL."""
    if is_sentinel(url):
        parse_sentinel_url(url)
    else:
        parse_url(url)  # type: ignore[no-untyped-call]


def without_password(url: str) -> str:
    """A Redis URL, or a text that contains one, without passwords, for logs.

    redis-py accepts passwords in the query too (`password`, `ssl_password` and so on). They are
    removed first because they may contain an @: the login is everything up to the last @.
    """
    query = re.compile(r"([?&][^=&\s]*password[^=&\s]*=)[^&\s]*", re.IGNORECASE)
    return re.sub(r"//.*@", "//***@", query.sub(r"\1***", url))
