"""Commands that are asked at the same moment go to Redis together."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis as AsyncRedis

Command = tuple[Any, ...]


class Pipelined:
    """Commands over one connection after another, in batches of whatever is waiting.

    A batch is no transaction: what happens to one command doesn't touch the others. Where the
    connection fails, each of them raises, and its caller asks again or gives up.
    """

    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def __call__(self, *command: Any) -> Any:
        """The reply of a command; raises what the command alone would raise."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return await reply

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                for (_, reply), outcome in zip(batch, await self._outcomes(batch), strict=True):
                    if reply.done():  # its caller was cancelled
                        continue
                    if isinstance(outcome, Exception):
                        reply.set_exception(outcome)
                    else:
                        reply.set_result(outcome)
        finally:
            self._sender = None

    async def _outcomes(self, batch: list[tuple[Command, asyncio.Future[Any]]]) -> list[Any]:
        """For each command its reply or its error."""
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for command, _ in batch:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)
        except Exception as error:
            return [error] * len(batch)
