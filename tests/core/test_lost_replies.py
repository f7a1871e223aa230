"""A reply of Redis that is lost doubles no job and loses none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from functools import partial
from typing import Any

import pytest
import redis

from chaos.proxy import Proxy
from core import keys
from core.broker.open import open_queues
from core.broker.scripts import source_of
from core.config import Delivery
from core.errors import JobError
from core.identity import current_identity
from core.keys import Kind
from harness.jobs import CANVAS, hide, processing, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, SHORT, Pipeline, page
from harness.workers import SOON, StartWorker, Worker, segments
from tests.core.support import settings_for


def has_tried_again(worker: Worker, times: int) -> bool:
    return worker.output.count("is tried again") > times


def test_at_most_once_jobs_that_wait_for_another_try_survive_a_kill(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    once = {"DELIVERY": "at_most_once", **SOON}
    worker = start_worker(RETRY_DELAY_S=2, **once)
    late = [pipeline.message(*page(60, 90, seed), "long", canvas=CANVAS) for seed in range(20)]
    put_back = [hide(message) for message in late]
    pipeline.fetch(send(pipeline))
    for message in late:
        pipeline.push(message, "long")
    wait_until(lambda: client.zcard(keys.delayed(LONG)) == 20, "all of them wait")
    worker.kill()
    for one in put_back:
        one()
    start_worker(**once)
    for message in late:
        assert pipeline.fetch(message["request_id"]).shape == (60, 90, 3)
    assert not client.exists(keys.DEAD, keys.ATTEMPTS, keys.SUBMISSIONS)


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
def test_lost_replies_double_no_job(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    server: RedisServer,
    delivery: str,
) -> None:
    chance = random.Random(3)
    with Proxy(server.port) as proxy:
        proxy.lead_to(server.port)
        worker = start_worker(
            REDIS_URL=f"redis://127.0.0.1:{proxy.port}",
            DELIVERY=delivery,
            RETRY_DELAY_S=0.2,
            MAX_ATTEMPTS=9,
        )
        pipeline.fetch(send(pipeline))
        late = [pipeline.message(*page(60, 90, seed), "long", canvas=CANVAS) for seed in range(12)]
        put_back = [hide(message) for message in late]
        pipeline.push(b"bad", "short")
        payloads = {pipeline.push(message, "long") for message in late}
        for _ in range(8):
            times = worker.output.count("is tried again")
            proxy.lose_replies(chance, 0.5)
            wait_until(partial(has_tried_again, worker, times), "it goes on")
        for one in put_back:
            one()
        if delivery == "at_least_once":
            for message in late:
                pipeline.fetch(message["request_id"])
        wait_until(
            lambda: not client.exists(LONG, SHORT, keys.delayed(LONG)) and not processing(client),
            "nothing is left to do",
        )
        assert client.llen(keys.DEAD) <= 1
        # What was sent once was delivered at most once.
        assert worker.output.count(" done: ") <= 1 + len(payloads)
        assert worker.stop() == 0
        pipeline.close()
    for name in segments():
        os.unlink(f"/dev/shm/{name}")


@pytest.mark.parametrize("delivery", ["at_least_once", "at_most_once"])
@pytest.mark.parametrize("operation", ["retry", "release", "fail", "supersede"])
def test_a_call_whose_reply_is_lost_has_its_effect_once(
    client: RedisClient,
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    delivery: str,
    operation: str,
) -> None:
    settings = settings_for(server).model_copy(update={"delivery": Delivery(delivery)})
    payload = b'{"request_id": "r"}'
    client.rpush(LONG, payload, payload)  # sent twice, and both in hand

    async def main() -> None:
        queues = open_queues(settings, current_identity(settings.queues))
        await queues.register()
        claim, other = await queues.take(Kind.LONG, 2)
        answer = queues._pipelined

        async def lost(*command: Any) -> Any:
            queues._pipelined = answer
            with contextlib.suppress(redis.exceptions.NoScriptError):
                await answer(*command)
                raise redis.exceptions.ConnectionError("the reply is lost")
            raise redis.exceptions.NoScriptError

        client.script_load(source_of(operation).text)
        monkeypatch.setattr(queues, "_pipelined", lost)
        error = JobError("r", "it failed")
        await {
            "retry": lambda: queues.retry(claim),
            "release": lambda: queues.release([claim]),
            "fail": lambda: queues.fail(claim, error, 1, ("r", "")),
            "supersede": lambda: queues.supersede(claim),
        }[operation]()
        assert queues.claims_in_flight() == [other]
        await queues.close()

    asyncio.run(main())
    waiting = client.llen(LONG) + client.zcard(keys.delayed(LONG))
    assert waiting == (operation in ("retry", "release"))
    assert client.llen(keys.DEAD) == (operation == "fail")
    assert processing(client) == (delivery == "at_least_once")
    assert sum(map(int, client.hvals(keys.ATTEMPTS))) == (operation == "retry")
