"""Access control of the admin port.

Anyone who can reach the port may read it. The checks protect against other sites' pages in a
browser that can reach it: such a page must not read through a name that it has pointed at this host
(DNS rebinding), nor send requests in the operator's name (CSRF).
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
import time
from collections.abc import Mapping
from functools import cached_property
from http import HTTPStatus
from typing import Final

from core.admin.http import HttpError, Request

log = logging.getLogger(__name__)

#: Delay of the answer to a wrong token, in seconds.
WRONG_TOKEN_S: Final = 0.5

#: Headers of proxies, in addition to those that begin with `x-forwarded-`.
FORWARDED: Final = ("forwarded", "via", "x-real-ip")


class Guard:
    """Checks requests. Each check raises HttpError, which says what is missing."""

    def __init__(self, token: str) -> None:
        """`token` is ADMIN_TOKEN, empty if there is none."""
        self._token = token

    def anybody(self, request: Request) -> None:
        """No check: the answer reveals nothing about pictures."""

    def reader(self, request: Request) -> None:
        """For reading: under a host name that no other site can point here, or with the token."""
        if not self._host_is_ours(request.headers) and not self._has_token(request):
            raise HttpError(
                HTTPStatus.FORBIDDEN,
                f"reached as {request.headers.get('host', 'nobody')!r}, which is neither an "
                "address nor this host's name: ADMIN_TOKEN is needed",
            )

    def trier(self, request: Request) -> None:
        """For sending a picture: from the status page in a browser on this host, or the token."""
        self._own_page(request)
        if not self._is_local(request) and not self._has_token(request):
            raise HttpError(
                HTTPStatus.FORBIDDEN,
                "pictures are taken from the status page in a browser on this host "
                "(http://localhost) or with ADMIN_TOKEN",
            )

    def changer(self, request: Request) -> None:
        """For changing jobs: the token, from any address."""
        self._own_page(request)
        if not self._token:
            raise HttpError(HTTPStatus.FORBIDDEN, "ADMIN_TOKEN is not set: nothing can be changed")
        if not self._has_token(request):
            raise HttpError(HTTPStatus.UNAUTHORIZED, "ADMIN_TOKEN is needed, and was not given")

    def may_try(self, request: Request) -> bool:
        """Whether this caller may send a picture."""
        return self._is_local(request) or self._has_token(request)

    def may_change(self, request: Request) -> bool:
        """Whether this caller may change jobs."""
        return bool(self._token) and self._has_token(request)

    # -------------------------------------------------------------------------------------------

    @cached_property
    def _own_names(self) -> set[str]:
        # Only on demand: it queries a DNS server, which may take seconds to time out.
        return {socket.gethostname().lower(), socket.getfqdn().lower()}

    def _own_page(self, request: Request) -> None:
        headers = request.headers
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
        if foreign or headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise HttpError(HTTPStatus.FORBIDDEN, "this must come from the status page itself")
        # A form cannot send this type, and a script of another site only after a preflight request.
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise HttpError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"
            )
        self.reader(request)

    def _has_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token or scheme.lower() != "bearer":
            return False
        if self._token and hmac.compare_digest(token.strip().encode(), self._token.encode()):
            return True
        log.warning("%s gave a wrong ADMIN_TOKEN", request.peer)
        time.sleep(WRONG_TOKEN_S)
        raise HttpError(HTTPStatus.UNAUTHORIZED, "this is not ADMIN_TOKEN")

    def _is_local(self, request: Request) -> bool:
        """Whether the caller is the status page in a browser on this host.

        A proxy on this host connects from loopback too, often with its own Host, and forwards all
        other headers. But it must not forward Connection (RFC 9110, 7.6.1), which every browser
        sends and no script can set.
        """
        headers = request.headers
        return (
            _is_loopback(request.peer)
            and _is_loopback(_name(headers))
            and headers.get("connection", "").lower() == "keep-alive"
            and _is_own_page(headers)
            and not any(name in FORWARDED or name.startswith("x-forwarded-") for name in headers)
        )

    def _host_is_ours(self, headers: Mapping[str, str]) -> bool:
        name = _name(headers)
        return "." not in name or _address(name) is not None or name in self._own_names


def _name(headers: Mapping[str, str]) -> str:
    """The host name or address by which the caller reached this port."""
    host = headers.get("host", "").lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_own_page(headers: Mapping[str, str]) -> bool:
    """Whether, according to the browser, a page of this port sent the request."""
    return (
        headers.get("sec-fetch-site") == "same-origin"
        or headers.get("origin") == f"http://{headers.get('host')}"
    )


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_loopback(name: str) -> bool:
    address = _address(name)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return name == "localhost" or (address is not None and address.is_loopback)
