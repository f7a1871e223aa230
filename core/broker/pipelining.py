"""Commands that are issued at the same time go to Redis in one pipeline."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis as AsyncRedis

Command = tuple[Any, ...]


class Pipelined:
    """Sends commands in batches: each batch has all commands that wait at that moment.

    A batch is no transaction: the commands in it are independent. If the connection fails, each of
    them raises, and its caller repeats the call or gives up.
    """

    def __init__(self, redis: AsyncRedis) -> None:
        self._redis = redis
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def __call__(self, *command: Any) -> Any:
        """The reply of a command; raises what it would raise without the pipeline."""
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
        """The reply or the error of each command."""
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for command, _ in batch:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)
        except Exception as error:
            return [error] * len(batch)
