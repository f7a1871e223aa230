"""Connections that close themselves when the server is a replica, and that bound what they read.

Behind one address (a DNS name, a virtual IP, a managed service) the master may change while
connections stay open. The old master then answers READONLY to every write. A connection that gets
this reply closes itself, so that the next call resolves the name again.
"""

from __future__ import annotations

import hashlib
from asyncio import IncompleteReadError
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from redis._parsers.resp2 import _AsyncRESP2Parser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from core.broker.redis_errors import NotMaster, is_read_only

#: Bytes that are kept of a message that is too large.
HEAD_BYTES: Final = 1024

_PIECE_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Oversized:
    """A value that is too large to be kept: its bytes, its sha1 in hex, its first KiB."""

    length: int
    sha1: str
    head: bytes


def bounded_parser(longest: int) -> Callable[..., Any]:
    """A parser that returns Oversized in place of a value of more than `longest` bytes."""

    class Parser(_AsyncRESP2Parser):
        async def _read(self, length: int) -> Any:
            if length <= longest:
                return await super()._read(length)
            return await self._skim(length)

        async def _skim(self, length: int) -> Oversized:
            """Read a value in pieces and keep its head only."""
            buffered = self._buffer[self._pos : self._pos + length]
            self._pos += len(buffered)
            digest, head = hashlib.sha1(buffered, usedforsecurity=False), buffered[:HEAD_BYTES]
            remaining = length - len(buffered)
            stream: Any = self._stream
            try:
                while remaining:
                    piece = await stream.readexactly(min(remaining, _PIECE_BYTES))
                    digest.update(piece)
                    head += piece[: HEAD_BYTES - len(head)]
                    remaining -= len(piece)
            except IncompleteReadError as error:
                raise RedisConnectionError("the connection ended within a value") from error
            await super()._read(0)  # the line's end
            return Oversized(length, digest.hexdigest(), head)

    return Parser


@cache
def leaves_replicas(base: type[Any]) -> type[Any]:
    """A class of asyncio connections that close themselves on READONLY."""

    class Connection(base):  # type: ignore[misc]
        async def read_response(self, *arguments: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*arguments, **options)
            except ResponseError as error:
                if not is_read_only(error):
                    raise
                await self.disconnect(nowait=True)
                raise NotMaster(f"READONLY {error}") from None

    return Connection


@cache
def leaves_replicas_blocking(base: type[Any]) -> type[Any]:
    """The same for blocking connections."""

    class Connection(base):  # type: ignore[misc]
        def read_response(self, *arguments: Any, **options: Any) -> Any:
            try:
                return super().read_response(*arguments, **options)
            except ResponseError as error:
                if not is_read_only(error):
                    raise
                self.disconnect()
                raise NotMaster(f"READONLY {error}") from None

    return Connection
