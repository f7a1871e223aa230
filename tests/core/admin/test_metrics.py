"""What /metrics says, read by Prometheus' own parser."""

from __future__ import annotations

import logging
import re
from functools import partial

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from core.admin.metrics import DEVICE_MEMORY, Metrics
from core.admin.sampler import Sampler
from core.broker.connection import sync_client
from core.config import Settings
from core.network import LaMa
from core.telemetry import Watch
from harness.admin import PORT, Admin
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import Kind, Pipeline, page
from harness.workers import StartWorker
from lama.devices import device_memory
from tests.core.support import MODEL

KINDS: tuple[Kind, ...] = ("long", "short")


def test_jobs_batches_and_failures_are_counted(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient
) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT, MAX_ATTEMPTS=2))
    before = admin.metrics()
    assert before["inpainting_jobs_total", "done", "long"] == 0
    for kind in KINDS:
        pipeline.fetch(pipeline.submit(*page(60, 90, 1), kind, canvas=(64, 96)))
    pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96), image_id="explode.jpg")
    pipeline.push(b"no json", "long")
    wait_until(lambda: client.llen("inpainting:dead") == 2, "both are dead")
    expected = {
        ("inpainting_jobs_total", "done", "long"): 1,
        ("inpainting_jobs_total", "done", "short"): 1,
        ("inpainting_jobs_total", "retried", "short"): 1,
        ("inpainting_jobs_total", "dead", "short"): 1,
        ("inpainting_jobs_total", "dead", "long"): 1,
        ("inpainting_failed_attempts_total", "short", "inference_failed"): 2,
        ("inpainting_failed_attempts_total", "long", "bad_json"): 1,
        ("inpainting_batch_size_jobs_count", "long"): 1,
        ("inpainting_job_duration_seconds_count", "short"): 1,
        ("inpainting_dead_jobs",): 2,
        ("inpainting_jobs_in_flight",): 0,
        ("inpainting_workers",): 1,
        ("inpainting_serving",): 1,
        ("inpainting_ready",): 1,
        ("inpainting_redis_up",): 1,
    }
    wait_until(lambda: expected.items() <= admin.metrics().items(), "everything is counted")
    now = admin.metrics()
    # The failed attempts were batches too: their inference came to an end.
    assert now["inpainting_stage_duration_seconds_count", "infer"] == 4
    assert 0 < now["inpainting_stage_duration_seconds_sum", "store"] < 30
    assert 0 < now["inpainting_shm_free_bytes",] <= now["inpainting_shm_size_bytes",]
    assert now["process_resident_memory_bytes",] > 1e6


def test_what_waits_in_redis_and_in_shared_memory_is_told(
    start_worker: StartWorker, pipeline: Pipeline, make_hold: object
) -> None:
    hold = make_hold()  # type: ignore[operator]
    admin = Admin(start_worker(ADMIN_PORT=PORT, STUB_HOLD=hold, INPAINTING_BATCH_SIZE_LONG=1))
    requests = [pipeline.submit(*page(60, 90, 1), "long", canvas=(64, 96)) for _ in range(5)]
    wait_until(
        lambda: admin.metrics()["inpainting_jobs_in_flight",] == 2, "one batch is claimed ahead"
    )
    wait_until(lambda: admin.metrics()["inpainting_queue_backlog_jobs", "long"] == 3, "3 wait")
    assert admin.metrics()["inpainting_processing_jobs",] == 2
    hold.unlink()
    wait_until(lambda: admin.metrics()["inpainting_result_segments",] == 5, "5 results")
    assert admin.metrics()["inpainting_result_segments_bytes",] == 5 * 60 * 90 * 3
    for request in requests:
        pipeline.fetch(request)
    assert admin.metrics()["inpainting_result_segments",] == 0


def test_jobs_of_a_dead_worker_are_counted_as_recovered(
    start_worker: StartWorker, pipeline: Pipeline, make_hold: object
) -> None:
    life = {"HEARTBEAT_INTERVAL_S": 0.2, "HEARTBEAT_TTL_S": 0.5, "REAP_INTERVAL_S": 0.2}
    hold = make_hold()  # type: ignore[operator]
    first = start_worker(STUB_HOLD=hold, **life)
    request = pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96))
    wait_until(lambda: "taken from" in first.output, "the job is claimed")
    first.stop(9)
    hold.unlink()
    admin = Admin(start_worker(ADMIN_PORT=PORT, **life))
    pipeline.fetch(request)
    assert admin.metrics()["inpainting_jobs_recovered_total", "short"] == 1


def test_names_follow_the_conventions(start_worker: StartWorker, client: RedisClient) -> None:
    reply = Admin(start_worker(ADMIN_PORT=PORT)).ask("/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=")
    families = [
        family
        for family in text_string_to_metric_families(reply.text)
        if not family.name.startswith("process_")
    ]
    assert len(families) > 20
    for family in families:
        assert re.fullmatch(r"inpainting_[a-z0-9_]+", family.name)
        assert family.documentation.endswith("."), family.name
        assert not family.name.endswith(("_ms", "_mb", "_percent", "_count")), family.name
        if "duration" in family.name:
            assert family.name.endswith("_seconds")
        for sample in family.samples:
            counter = family.type == "counter"
            assert sample.name.endswith("_total") == counter, sample.name


def rendered(settings: Settings, watch: Watch) -> str:
    connect = partial(sync_client, settings.redis_url)
    sampler = Sampler(connect, settings.queues, settings.result_queue, watch)
    return Metrics(watch, sampler, settings.shm_name_prefix).render().decode()


def test_pictures_that_overflow_in_half_precision_are_counted() -> None:
    settings = Settings(
        use_cuda=False,
        lama_config_path=MODEL["LAMA_CONFIG_PATH"],
        lama_checkpoint_path=MODEL["LAMA_CHECKPOINT_PATH"],
    )
    network = LaMa(settings)
    assert network.half_fallbacks == 0
    network.inpainter.engine.half_fallbacks = 3
    watch = Watch(half_fallbacks=lambda: network.half_fallbacks)
    text = rendered(settings, watch)
    assert "inpainting_half_precision_fallbacks_total 3.0" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("use_cuda", "missing"), [(True, 1), (False, 0)])
def test_a_gpu_that_is_asked_for_and_not_there_is_a_metric_and_a_warning(
    use_cuda: bool, missing: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(
        use_cuda=use_cuda,
        lama_config_path=MODEL["LAMA_CONFIG_PATH"],
        lama_checkpoint_path=MODEL["LAMA_CHECKPOINT_PATH"],
    )
    with caplog.at_level(logging.WARNING):
        network = LaMa(settings)
    assert network.lacks_gpu is bool(missing)
    assert ("no CUDA device can be used; the CPU is" in caplog.text) is bool(missing)
    watch = Watch(lacks_gpu=network.lacks_gpu)
    text = rendered(settings, watch)
    assert f"inpainting_gpu_missing {missing}.0" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_worker_that_requires_a_gpu_does_not_start_without_one(
    start_worker: StartWorker, client: RedisClient
) -> None:
    worker = start_worker(ready=False, HARNESS_NETWORK="lama", USE_CUDA="require", **MODEL)
    assert worker.wait() == 1
    assert "USE_CUDA=require, but no CUDA device can be used: install the driver" in worker.output
    assert "Traceback" not in worker.output
    assert not list(client.scan_iter("inpainting:worker:*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_worker_without_the_gpu_that_it_wants_says_so_in_its_metrics(
    start_worker: StartWorker, client: RedisClient
) -> None:
    worker = start_worker(HARNESS_NETWORK="lama", USE_CUDA=1, ADMIN_PORT=PORT, **MODEL)
    assert "inpainting_gpu_missing 1.0" in Admin(worker).ask("/metrics").text
    worker.wait_for_line("WARNING core.network: USE_CUDA=1, but no CUDA device can be used")


class FakeCuda:
    """torch.cuda, as far as it is asked."""

    @staticmethod
    def is_initialized() -> bool:
        return True

    memory_allocated = memory_reserved = staticmethod(lambda: 5)
    current_device = staticmethod(lambda: 0)

    @staticmethod
    def get_device_properties(_: int) -> object:
        return type("Properties", (), {"total_memory": 9})


def test_memory_of_a_gpu_is_told_only_where_one_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert device_memory() == {}
    monkeypatch.setitem(__import__("sys").modules, "torch", type("Torch", (), {"cuda": FakeCuda}))
    assert device_memory() == {"allocated": 5, "reserved": 5, "size": 9}
    assert set(device_memory()) == set(DEVICE_MEMORY)
