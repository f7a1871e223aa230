"""Commands that are asked together go to Redis together, and don't touch each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import NoScriptError, ResponseError

from core.broker.connection import async_client
from core.broker.pipelining import Pipelined
from core.broker.redis_errors import REDIS_ERRORS
from core.config import Settings
from harness.redis_server import RedisClient, RedisServer


class Counted:
    """A client that counts its pipelines."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.pipelines = 0

    def pipeline(self, **options: Any) -> Any:
        self.pipelines += 1
        return self._client.pipeline(**options)


def run(url: str, use: Callable[[Pipelined, Counted], Awaitable[None]]) -> None:
    async def with_client() -> None:
        client = async_client(Settings(redis_url=url).redis_url)
        counted = Counted(client)
        try:
            await use(Pipelined(counted), counted)  # type: ignore[arg-type]
        finally:
            await client.aclose()

    asyncio.run(with_client())


def test_commands_that_are_asked_together_go_in_one_pipeline_and_keep_their_order(
    client: RedisClient, server: RedisServer
) -> None:
    async def use(pipelined: Pipelined, counted: Counted) -> None:
        replies = await asyncio.gather(*(pipelined("INCR", "n") for _ in range(10)))
        assert replies == list(range(1, 11))
        assert counted.pipelines == 1
        assert await pipelined("INCR", "n") == 11
        assert counted.pipelines == 2

    run(server.url, use)


def test_what_is_asked_while_a_pipeline_is_under_way_goes_with_the_next(
    client: RedisClient, server: RedisServer
) -> None:
    async def use(pipelined: Pipelined, counted: Counted) -> None:
        first = asyncio.create_task(pipelined("INCR", "n"))
        while not counted.pipelines:
            await asyncio.sleep(0)
        others = [asyncio.create_task(pipelined("INCR", "n")) for _ in range(5)]
        assert await asyncio.gather(first, *others) == [1, 2, 3, 4, 5, 6]
        assert counted.pipelines == 2

    run(server.url, use)


def test_an_error_is_that_of_its_command_alone(client: RedisClient, server: RedisServer) -> None:
    client.set("text", "a")

    async def use(pipelined: Pipelined, _: Counted) -> None:
        commands = [("INCR", "n"), ("RPUSH", "text", "b"), ("EVALSHA", "0" * 40, 0), ("INCR", "n")]
        replies = await asyncio.gather(*(pipelined(*c) for c in commands), return_exceptions=True)
        assert (replies[0], replies[3]) == (1, 2)
        assert isinstance(replies[1], ResponseError)
        assert isinstance(replies[2], NoScriptError)

    run(server.url, use)


def test_a_caller_that_gives_up_does_not_take_the_others_along(
    client: RedisClient, server: RedisServer
) -> None:
    async def use(pipelined: Pipelined, _: Counted) -> None:
        gone = asyncio.create_task(pipelined("INCR", "n"))
        stays = asyncio.create_task(pipelined("INCR", "n"))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == 2
        assert await pipelined("INCR", "n") == 3

    run(server.url, use)


def test_a_server_that_is_away_is_an_error_for_each_and_is_asked_again_afterwards() -> None:
    with RedisServer() as server:

        async def use(pipelined: Pipelined, _: Counted) -> None:
            assert await pipelined("INCR", "n") == 1
            server.stop()
            replies = await asyncio.gather(
                *(pipelined("INCR", "n") for _ in range(3)), return_exceptions=True
            )
            assert all(isinstance(reply, REDIS_ERRORS) for reply in replies)
            await asyncio.to_thread(server.start)
            assert await pipelined("INCR", "n") == 1

        run(server.url, use)


def test_a_command_that_the_server_does_not_know_hurts_nobody(
    client: RedisClient, server: RedisServer
) -> None:
    async def use(pipelined: Pipelined, _: Counted) -> None:
        with pytest.raises(ResponseError):
            await pipelined("NO-SUCH-COMMAND")
        assert await pipelined("PING") in (b"PONG", True)

    run(server.url, use)
