"""Waiting for jobs in the server, in a way that can be ended without losing one."""

from __future__ import annotations

import contextlib
from typing import Any

from core.broker.connection import COMMAND_TIMEOUT_S, async_client
from core.broker.redis_connections import bounded_parser
from core.broker.redis_errors import REDIS_ERRORS
from core.config import Settings

#: How long a claim blocks in the server when nobody ends it earlier, and where the ACL lets
#: nobody do so: the wait for one queue then delays what arrives on the other.
BLOCK_S, SHORT_BLOCK_S = 2.0, 0.1


class Waiter:
    """A connection on which one blocking command at a time waits in the server."""

    def __init__(self, settings: Settings) -> None:
        self.client = async_client(
            settings,
            timeout_s=BLOCK_S + COMMAND_TIMEOUT_S,
            on_connect=self._on_connect,
            parser=bounded_parser(settings.max_message_bytes),
        )
        self._client_id: int | None = None
        self._waiting = False
        #: How long one wait should last at most, in seconds.
        self.longest_s = BLOCK_S

    async def wait(self, *command: Any) -> Any:
        """The reply of a blocking command; None if its time was over.

        A payload above MAX_MESSAGE_BYTES is Oversized in it: it is never held in memory.
        """
        self._waiting = True
        try:
            return await self.client.execute_command(*command)  # type: ignore[no-untyped-call]
        finally:
            self._waiting = False

    async def unblock(self, other: Any) -> None:
        """Have the server end the wait, asked over another connection."""
        if self._waiting and self._client_id:
            with contextlib.suppress(*REDIS_ERRORS):  # the wait itself will notice
                await other.execute_command("CLIENT UNBLOCK", self._client_id)

    async def _on_connect(self, connection: Any) -> None:
        await connection.on_connect()
        await connection.send_command("CLIENT", "ID")
        self._client_id = await connection.read_response()
