"""Redis loses its data, or goes back in time: what is in hand is published once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from core import keys
from core.identity import current_namespace
from harness.jobs import CANVAS, processing, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, Pipeline, page
from harness.workers import SOON, OwnPipeline, StartWorker, segments


def test_a_batch_in_hand_is_published_when_redis_has_lost_all_its_data(
    start_worker: StartWorker, make_hold: Callable[[], Path], shm_baseline: None
) -> None:
    with RedisServer() as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        worker = start_worker(
            REDIS_URL=server.url, STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=1, **SOON
        )
        requests = [send(pipeline, seed=seed) for seed in range(2)]
        wait_until(lambda: worker.output.count("taken from") == 2, "one is read ahead")
        server.kill()
        server.start()
        hold.unlink()
        for request in requests:
            assert pipeline.fetch(request).shape == (60, 90, 3)
        wait_until(lambda: not segments(), "the inputs are unlinked")
        assert "no longer this worker's" not in worker.output
        assert pipeline.fetch(send(pipeline, seed=5)).shape == (60, 90, 3)
        assert worker.stop() == 0


def test_a_batch_in_hand_is_published_once_when_its_messages_are_sent_again_after_the_loss(
    start_worker: StartWorker, make_hold: Callable[[], Path], shm_baseline: None
) -> None:
    with RedisServer() as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        worker = start_worker(REDIS_URL=server.url, STUB_HOLD=hold, **SOON)
        message = pipeline.message(*page(60, 90, 1), "long", canvas=CANVAS)
        pipeline.push(message, "long")
        worker.wait_for_line("taken from")
        server.kill()
        server.start()
        pipeline.push(message, "long")  # its sender has noticed
        wait_until(lambda: pipeline.redis.exists(keys.CREWS), "the worker is back")
        hold.unlink()
        assert pipeline.fetch(message["request_id"]).shape == (60, 90, 3)
        wait_until(lambda: not pipeline.redis.exists(LONG), "the second one is done with too")
        wait_until(lambda: not processing(pipeline.redis), "nothing is in hand")
        assert worker.stop() == 0
        for key in pipeline.redis.scan_iter("inpainting_result:*"):
            info = json.loads(pipeline.redis.hget(key, "inpaint_shm_info") or "null")
            assert info is None


def test_a_batch_in_hand_is_published_when_redis_comes_back_with_an_older_snapshot(
    start_worker: StartWorker, make_hold: Callable[[], Path], shm_baseline: None
) -> None:
    with RedisServer() as server, OwnPipeline(server.url) as pipeline:
        hold = make_hold()
        hold.unlink()
        worker = start_worker(REDIS_URL=server.url, STUB_HOLD=hold, **SOON)
        pipeline.fetch(send(pipeline))
        pipeline.redis.save()
        hold.touch()
        request = send(pipeline, seed=2)
        wait_until(lambda: worker.output.count("taken from") == 2, "the second is in hand")
        server.kill()
        server.start()
        hold.unlink()
        try:
            assert pipeline.fetch(request, 5).shape == (60, 90, 3)
        finally:
            pipeline.close()


def test_a_leap_of_the_clock_removes_no_result_of_a_moment_ago(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    namespace = current_namespace()
    clock = f"{namespace} clock"
    worker = start_worker(RESULT_TTL_S=3600, DEAD_TTL_S=3600, **SOON)
    request = send(pipeline)
    send(pipeline, padding_info="bad")
    wait_until(lambda: client.llen(keys.DEAD) == 1, "one is dead")
    wait_until(lambda: client.exists(keys.result(request)), "there is a result")
    # As if the server's clock had gone 25 hours ahead since: all that is noted is older by that.
    day = 25 * 3600
    time_then, at_then = map(int, client.hget(keys.CREWS, clock).split())
    client.hset(keys.CREWS, clock, f"{time_then - day} {at_then - day}")
    ((member, score),) = client.zrange(keys.segments(namespace), 0, -1, withscores=True)
    client.zadd(keys.segments(namespace), {member: score - day})
    entry = json.loads(client.lpop(keys.DEAD))
    client.rpush(keys.DEAD, json.dumps({**entry, "at": entry["at"] - day}))

    def ticked() -> bool:
        return int(client.hget(keys.CREWS, clock).split()[1]) > at_then

    wait_until(ticked, "the clock goes on")
    wait_until(lambda: not client.exists(keys.reaper(namespace)), "a pass is over")
    now = int(client.hget(keys.CREWS, clock).split()[0])
    assert now < time_then - day + 120
    assert client.exists(keys.result(request), keys.DEAD) == 2
    assert pipeline.fetch(request).shape == (60, 90, 3)
    assert worker.stop() == 0
    pipeline.close()
