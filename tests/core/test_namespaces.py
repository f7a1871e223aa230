"""Workers that see another /dev/shm, and what is left of one that nobody sees any more."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import numpy as np
import pytest

from core import keys
from core.broker.connection import Link
from core.broker.dead_job import write_entry
from core.identity import Identity, crew_of, current_identity, current_namespace, identity_in
from core.keys import Kind
from core.pixels import shm
from core.recovery.recovery import Recovery
from harness.jobs import CANVAS, dead_entries, processing, send
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import LONG, SHORT, Pipeline, page
from harness.workers import OWN, SOON, StartWorker, Worker, segments, worker_id
from tests.core.private import Private, needs_mounts
from tests.core.support import settings_for

#: Settings of workers that soon take others' leavings for orphaned.
ORPHANING = {**SOON, "ORPHAN_AFTER_S": 1}


def kinds(client: RedisClient) -> set[str]:
    return {key.decode().split(":")[1] for key in client.scan_iter("inpainting:*")}


@needs_mounts
def test_what_a_vanished_namespace_left_is_given_back_and_removed(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, make_hold: Any
) -> None:
    hold = make_hold()
    hold.unlink()
    private = Private(start_worker, STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=1)
    unfetched = private.send(pipeline, seed=1)
    wait_until(lambda: client.exists(keys.result(unfetched)), "there is a result")
    refused = private.send(pipeline, seed=2, padding_info="bad")
    wait_until(lambda: client.llen(keys.DEAD) == 1, "there is a dead job")
    hold.touch()
    lost = [private.send(pipeline, seed=seed) for seed in range(3)]
    wait_until(lambda: processing(client) == 2, "two jobs are in hand")
    namespace = _namespace(client, private.worker)
    private.worker.kill()
    private.worker.wait()
    survivor = start_worker(**ORPHANING)
    assert pipeline.fetch(send(pipeline, seed=9)).shape == (60, 90, 3)  # it sees its segments
    for request in lost:
        result = pipeline.result(request)
        assert (result["status"], result["reason"]) == ("failed", "segment_missing")
    survivor.wait_for_line("dissolved the workers of")
    assert not client.exists(keys.result(unfetched))
    assert refused not in {entry["request_id"] for entry in dead_entries(client)}
    assert sorted(entry["request_id"] for entry in dead_entries(client)) == sorted(lost)
    wait_until(lambda: not _traces(client, namespace), "nothing is left of the namespace")
    assert not client.exists(keys.ATTEMPTS)
    assert kinds(client) <= {"worker", "workers", "crews", "dead", "segments", "reaper"}


def _namespace(client: RedisClient, worker: Worker) -> str:
    about = json.loads(client.get(keys.heartbeat(worker_id(client, worker))))
    return str(about["namespace"])


def _traces(client: RedisClient, namespace: str) -> list[bytes]:
    """Keys, and fields of the hash of crews, that are about a namespace."""
    found = [key for key in client.scan_iter("inpainting:*") if namespace.encode() in key]
    return found + [name for name in client.hkeys(keys.CREWS) if namespace.encode() in name]


class Gone:
    """What a worker has left in Redis that was in a namespace which nobody sees."""

    def __init__(
        self, server: RedisServer, client: RedisClient, *, boot: str = "", **settings: Any
    ) -> None:
        self.client = client
        self.settings = settings_for(server, **settings)
        here = current_namespace()
        self.namespace = f"{boot or here[:36]}-999"
        self.identity: Identity = identity_in(self.settings.queues, self.namespace)

    def leave(self, *payloads: bytes, seen: float = 0.0, kind: Kind = Kind.LONG) -> None:
        """Payloads in hand, as a worker leaves them that dies at once with its host."""
        crew = crew_of(self.settings.queues, self.namespace).name
        about = {str(one): self.settings.queue(one) for one in Kind} | {"host": self.identity.host}
        self.client.hset(
            keys.CREWS,
            mapping={
                crew: json.dumps(about),
                f"{crew} seen": int(seen or time.time()),
                f"{crew} sighted": "1",
                f"{self.namespace} clock": "1 1",
            },
        )
        self.client.sadd(keys.workers(self.namespace), self.identity.worker)
        for number, payload in enumerate(payloads):
            self.client.rpush(keys.processing(self.identity.worker, kind), payload)
            sha1 = keys.sha1(payload)
            record = {str(number): sha1, f"{number}:work": sha1}
            self.client.hset(keys.claims(self.identity.worker), mapping=record)

    def leave_result(self, request: str) -> None:
        info = json.dumps({"shm_name": f"img_shm_{OWN}{request}"})
        self.client.hset(keys.result(request), "inpaint_shm_info", info)
        self.client.zadd(
            keys.segments(self.namespace), {f"img_shm_{OWN}{request} {request}": 2e9 + 0.5}
        )

    def leave_dead(self, payload: bytes) -> None:
        about = {"queue": self.settings.queue(Kind.LONG), "namespace": self.namespace}
        self.client.rpush(keys.DEAD, write_entry(payload, reason="crashed", **about))


OTHER_BOOT = "00000000-1111-2222-3333-444444444444"


def test_what_an_earlier_boot_left_is_given_back_at_once_and_fails_for_its_segments(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, server: RedisServer
) -> None:
    gone = Gone(server, client, boot=OTHER_BOOT)
    lost = [pipeline.message(*page(60, 90, seed), "long", canvas=CANVAS) for seed in range(5)]
    pipeline.close()
    gone.leave(*(json.dumps(message).encode() for message in lost))
    gone.leave_result("unfetched")
    gone.leave_dead(b'{"request_id": "dead"}')
    client.rpush(keys.cleanup(gone.identity.worker), json.dumps(lost[0]))
    worker = start_worker(RETRY_DELAY_S=0.02, **SOON)  # ORPHAN_AFTER_S is ten minutes
    for message in lost:
        result = pipeline.result(message["request_id"])
        assert (result["status"], result["reason"]) == ("failed", "segment_missing")
    worker.wait_for_line("dissolved the workers of")
    wait_until(lambda: not _traces(client, gone.namespace), "nothing is left of the namespace")
    assert not client.exists(keys.result("unfetched"), keys.cleanup(gone.identity.worker))
    assert {entry["request_id"] for entry in dead_entries(client)} == {
        one["request_id"] for one in lost
    }


def test_dropping_the_dead_of_an_earlier_boot_unlinks_no_segment_of_this_one(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, server: RedisServer
) -> None:
    gone = Gone(server, client, boot=OTHER_BOOT)
    name = f"img_shm_{OWN}used-again"
    shm.write(name, np.zeros(4, np.uint8), 0o600)
    message = {"request_id": "dead", "preprocessed_img_shm_info": {"shm_name": name}}
    gone.leave()
    gone.leave_dead(json.dumps(message).encode())
    start_worker(**SOON).wait_for_line("dissolved the workers of")
    assert segments() == {name}
    assert not client.exists(keys.DEAD)
    os.unlink(f"/dev/shm/{name}")


@pytest.mark.parametrize("change", ["both", "one"])
def test_jobs_of_workers_whose_queues_were_renamed_are_back_in_the_old_ones(
    start_worker: StartWorker,
    pipeline: Pipeline,
    client: RedisClient,
    make_hold: Any,
    change: str,
) -> None:
    names = {"LAMA_INFERENCE_LONG_TASKS_QUEUE": "renamed:long"}
    if change == "both":
        names["LAMA_INFERENCE_SHORT_TASKS_QUEUE"] = "renamed:short"
    worker = start_worker(STUB_HOLD=make_hold(), **SOON)
    payloads = [
        pipeline.push(pipeline.message(*page(60, 90, 1), kind, canvas=CANVAS), kind)
        for kind in ("long", "short")
    ]
    wait_until(lambda: processing(client) == 2, "both are in hand")
    worker.kill()
    renamed = start_worker(**names, **ORPHANING)
    renamed.wait_for_line("dissolved the workers of")
    wait_until(lambda: processing(client) == 0, "nothing is in hand")
    assert client.lrange(LONG, 0, -1) == payloads[:1]
    if change == "both":
        assert client.lrange(SHORT, 0, -1) == payloads[1:]
    else:
        assert pipeline.fetch(json.loads(payloads[1])["request_id"]).shape == (60, 90, 3)
    assert not client.exists(keys.ATTEMPTS, keys.DEAD)
    client.delete(LONG, SHORT)
    pipeline.close()


def test_a_crew_that_lives_is_never_dissolved(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, server: RedisServer
) -> None:
    gone = Gone(server, client, boot=OTHER_BOOT)
    gone.leave(b"a", seen=1)
    gone.leave_result("unfetched")
    client.set(keys.heartbeat(gone.identity.worker), "alive")
    worker = start_worker(**ORPHANING)
    crew = crew_of(gone.settings.queues, gone.namespace).name
    wait_until(lambda: int(client.hget(keys.CREWS, f"{crew} seen")) > 1, "it is seen")
    assert processing(client) == 1
    assert client.exists(keys.result("unfetched"))
    client.delete(keys.heartbeat(gone.identity.worker))
    worker.wait_for_line("dissolved the workers of")
    wait_until(lambda: dead_entries(client), "what it had is no message")


def test_results_of_a_namespace_that_is_gone_with_its_queues_are_removed(
    start_worker: StartWorker, client: RedisClient, server: RedisServer
) -> None:
    gone = Gone(
        server,
        client,
        boot=OTHER_BOOT,
        lama_inference_long_tasks_queue="long:old-host",
        lama_inference_short_tasks_queue="short:old-host",
    )
    gone.leave(b"a", seen=1)
    gone.leave_result("unfetched")
    start_worker(**ORPHANING).wait_for_line("dissolved the workers of")
    assert client.lrange("long:old-host", 0, -1) == [b"a"]
    assert not client.exists(keys.result("unfetched"))
    assert not _traces(client, gone.namespace)


@needs_mounts
def test_a_result_that_is_replaced_from_another_namespace_is_removed_where_it_is(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    there = Private(start_worker)
    there.send(pipeline, seed=1, request_id="again", image_id="older.jpg")
    wait_until(lambda: client.exists(keys.result("again")), "there is a result")
    wait_until(lambda: len(os.listdir(there.folder)) == 1, "its inputs are unlinked")
    (older,) = os.listdir(there.folder)
    here = start_worker(LAMA_INFERENCE_LONG_TASKS_QUEUE="here", **SOON)
    pipeline.queues["long"] = "here"
    send(pipeline, seed=2, request_id="again", image_id="newer.jpg")
    wait_until(lambda: client.hget(keys.result("again"), "image_id") == b"newer.jpg", "the newer")
    wait_until(lambda: older not in os.listdir(there.folder), "the older segment is unlinked")
    pipeline.fetch("again")
    assert here.stop() == there.worker.stop() == 0


def test_a_process_that_gives_its_jobs_back_is_not_overtaken_by_one_that_counts_them(
    client: RedisClient, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(server)
    me = current_identity(settings.queues)
    client.sadd(keys.workers(me.namespace), me.worker)
    client.set(keys.heartbeat(me.worker), "alive")
    client.rpush(keys.processing(me.worker, Kind.LONG), b"a")
    sha1 = keys.sha1(b"a")
    client.hset(keys.claims(me.worker), mapping={"1": sha1, "1:work": sha1})

    async def main() -> None:
        leaving = Recovery(settings, me, Link(settings.redis_url))
        other = Recovery(settings, current_identity(settings.queues), Link(settings.redis_url))
        delete = leaving._redis.delete

        async def overtaken(*names: str) -> int:
            deleted: int = await delete(*names)
            await other.recover()
            return deleted

        monkeypatch.setattr(leaving._redis, "delete", overtaken)
        await leaving.give_back_own()
        await leaving.close()
        await other.close()

    asyncio.run(main())
    assert client.lrange(LONG, 0, -1) == [b"a"]
    assert not client.exists(keys.ATTEMPTS)
