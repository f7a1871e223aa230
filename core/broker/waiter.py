"""Blocking waits for jobs, which can be ended without losing a job."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from core.broker.connection import COMMAND_TIMEOUT_S, async_client
from core.broker.redis_connections import bounded_parser
from core.broker.redis_errors import REDIS_ERRORS, passes

#: Seconds that a claim blocks in the server: normally, and where CLIENT UNBLOCK is missing or
#: forbidden. There, the wait for one queue delays a job that arrives on the other.
BLOCK_S, SHORT_BLOCK_S = 2.0, 0.1


class Waiter:
    """A connection for blocking commands, one at a time."""

    def __init__(self, redis_url: str, max_message_bytes: int) -> None:
        self.client = async_client(
            redis_url,
            timeout_s=BLOCK_S + COMMAND_TIMEOUT_S,
            on_connect=self._on_connect,
            parser=bounded_parser(max_message_bytes),
        )
        self._client_id: int | None = None
        self._waiting = False
        #: Timeout that callers should use for one wait, in seconds.
        self.longest_s = BLOCK_S

    async def wait(self, *command: Any) -> Any:
        """The reply of a blocking command; None if it timed out.

        A payload above MAX_MESSAGE_BYTES is returned as Oversized and never held in memory.
        """
        self._waiting = True
        try:
            return await self.client.execute_command(*command)  # type: ignore[no-untyped-call]
        finally:
            self._waiting = False

    async def unblock(self, other: Any) -> None:
        """Make the server end the wait, by a command on another connection."""
        if self._waiting and self._client_id:
            try:
                await other.execute_command("CLIENT UNBLOCK", self._client_id)
            except REDIS_ERRORS as error:  # the wait itself will notice
                if not passes(error):
                    self.longest_s = SHORT_BLOCK_S

    async def _on_connect(self, connection: Any) -> None:
        await connection.on_connect()
        self._client_id = None
        await connection.send_command("CLIENT", "ID")
        try:
            self._client_id = await connection.read_response()
        except ResponseError as error:
            if passes(error):
                raise
            self.longest_s = SHORT_BLOCK_S
