"""/livez and /readyz, and that the admin port never stops a worker from serving."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from pathlib import Path

import pytest

from core.admin.server import REDIS_TIMEOUT_S
from core.broker.connection import COMMAND_TIMEOUT_S, LONGEST_DELAY_S
from core.telemetry.record import LOADING_STALE_S, STAGE_STALE_S, STALE_S, Phase, Watch
from harness import ROOT
from harness.admin import PORT, Admin, default_ports
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import Pipeline, page
from harness.workers import StartWorker

STALLED_WORKER = ROOT / "harness/stalled.py"


def test_a_worker_at_rest_is_live_and_ready(start_worker: StartWorker, client: RedisClient) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    assert admin.ask("/livez").text == "ok\n"
    assert admin.wait_for("/readyz", 200).text == "ok\n"


def test_a_worker_whose_claiming_loop_stops_is_no_longer_live(
    start_worker: StartWorker, client: RedisClient, tmp_path: Path
) -> None:
    stall = tmp_path / "stall"
    settings = {"STUB_STALL": stall, "STUB_STALL_AT": "claim", "STUB_STALE_S": 5}
    admin = Admin(start_worker(STALLED_WORKER, ADMIN_PORT=PORT, **settings))
    assert admin.ask("/livez").status == 200
    stall.touch()
    reply = admin.wait_for("/livez", 503)
    assert "the claiming loop has not turned over" in reply.text
    assert admin.ask("/readyz").status == 503
    stall.unlink()
    admin.wait_for("/livez", 200)


@pytest.mark.parametrize("stage", ["load", "store", "commit", "unlink"])
def test_a_worker_with_a_stage_that_does_not_come_back_is_no_longer_live(
    start_worker: StartWorker, pipeline: Pipeline, tmp_path: Path, stage: str
) -> None:
    stall = tmp_path / "stall"
    stall.touch()
    settings = {"STUB_STALL": stall, "STUB_STALL_AT": stage, "STUB_STALE_S": 3}
    admin = Admin(start_worker(STALLED_WORKER, ADMIN_PORT=PORT, **settings))
    request = pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96))
    reply = admin.wait_for("/livez", 503)
    assert f"the stage {stage} has made no progress" in reply.text
    stall.unlink()
    admin.wait_for("/livez", 200)
    assert pipeline.fetch(request).shape == (60, 90, 3)


def test_a_worker_whose_model_does_not_load_is_no_longer_live() -> None:
    loading = Watch()
    assert aged(loading, STALE_S + 1, "_made_at").trouble() == ""
    assert "has not been loaded" in aged(loading, LOADING_STALE_S + 1, "_made_at").trouble()
    loading.phase = Phase.CONNECTING  # Redis may be away for as long as it likes
    assert loading.trouble() == ""


def test_a_stage_counts_as_hung_only_without_progress_while_redis_answers() -> None:
    watch, old = serving(), STAGE_STALE_S + 1

    def trouble(**aged_s: float) -> str:
        watch._stages_begun.update({name: time.monotonic() - age for name, age in aged_s.items()})
        return watch.trouble()

    with watch.stage("store"), watch.stage("commit"):
        watch.batch_started()  # while which the claiming loop may rest
        assert trouble(store=STAGE_STALE_S - 9) == ""
        assert "the stage store" in trouble(store=old)
        watch.progressed("store")
        assert watch.trouble() == ""
        assert "the stage commit" in trouble(commit=old)
        watch.redis_failed()
        assert trouble(commit=old) == ""
        watch.redis_back()
        assert trouble(commit=old) == ""
        watch.phase = Phase.STOPPING  # which has a grace time of its own
        aged(watch, old, "_redis_changed_at")
        assert trouble(commit=old) == ""
        watch.phase = Phase.SERVING
        assert "the stage commit" in trouble(commit=old)
    watch.progressed("store")  # too late
    assert watch.trouble() == ""


def test_a_batch_that_fills_slowly_neither_kills_its_worker_nor_holds_up_a_stop(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, tmp_path: Path
) -> None:
    settings = {"STUB_STALL": tmp_path / "none", "STUB_STALL_AT": "claim", "STUB_STALE_S": 2}
    worker = start_worker(
        STALLED_WORKER, ADMIN_PORT=PORT, BATCH_MAX_WAIT_MS=60_000, SHUTDOWN_GRACE_S=5, **settings
    )
    admin = Admin(worker)
    pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96))
    wait_until(lambda: admin.status["worker"]["in_flight"] == 1, "it is claimed")
    claimed_at = time.monotonic()
    while time.monotonic() < claimed_at + 5:  # longer than twice what a loop may be silent
        assert admin.ask("/livez").status == 200
    assert worker.stop() == 0
    assert client.llen(pipeline.queues["short"]) == 1


def test_a_worker_without_redis_is_live_but_not_ready_until_it_is_back(
    start_worker: StartWorker,
) -> None:
    with RedisServer() as own:
        admin = Admin(start_worker(ADMIN_PORT=PORT, REDIS_URL=own.url))
        admin.wait_for("/readyz", 200)
        own.stop()
        reply = admin.wait_for("/readyz", 503)
        assert "Redis does not answer" in reply.text
        assert admin.ask("/livez").status == 200
        assert admin.metrics()["inpainting_redis_up",] == 0
        assert admin.metrics()["inpainting_ready",] == 0
        assert admin.metrics()["inpainting_serving",] == 1
        own.start()
        admin.wait_for("/readyz", 200)
        wait_until(
            lambda: admin.metrics()["inpainting_redis_reconnections_total",] > 0,
            "the reconnection is counted",
        )


def test_the_port_answers_while_the_model_is_loaded(
    start_worker: StartWorker, client: RedisClient, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "from harness.launch import launch\n"
        "from harness.networks import StubNetwork\n"
        "go = Path(os.environ['STUB_GO'])\n"
        "def load(settings):\n"
        "    while not go.exists():\n"
        "        time.sleep(0.01)\n"
        "    return StubNetwork(settings.mask_threshold)\n"
        "launch(load)\n"
    )
    go = tmp_path / "go"
    admin = Admin(start_worker(slow, ready=False, ADMIN_PORT=PORT, STUB_GO=go))
    assert admin.ask("/livez").status == 200
    assert admin.ask("/readyz").text == "loading the model\n"
    assert admin.status["health"] == {"live": True, "ready": False, "why": "loading the model"}
    go.touch()
    admin.wait_for("/readyz", 200)


def test_a_stopping_worker_is_live_but_not_ready(
    start_worker: StartWorker, pipeline: Pipeline, make_hold: object, tmp_path: Path
) -> None:
    hold, trace = make_hold(), tmp_path / "trace"  # type: ignore[operator]
    worker = start_worker(ADMIN_PORT=PORT, STUB_HOLD=hold, STUB_TRACE=trace)
    admin = Admin(worker)
    request = pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96))
    wait_until(trace.exists, "the network has the job: one not begun would be put back")
    assert admin.status["worker"]["in_flight"] == 1
    worker.send_signal(signal.SIGTERM)
    reply = admin.wait_for("/readyz", 503)
    assert reply.text == "stopping\n"
    assert admin.ask("/livez").status == 200
    hold.unlink()
    assert pipeline.fetch(request).shape == (60, 90, 3)
    assert worker.wait() == 0


def test_workers_on_one_host_take_the_next_free_port_and_say_so(
    start_worker: StartWorker, client: RedisClient
) -> None:
    with contextlib.ExitStack() as others:
        default = others.enter_context(default_ports())
        with contextlib.suppress(OSError):  # a worker of this machine may have it
            others.enter_context(socket.create_server(("127.0.0.1", default)))
        workers = [start_worker(ADMIN_PORT="") for _ in range(2)]  # empty: not set
        ports = [Admin(worker).port for worker in workers]
        assert len({default, *ports}) == 3
        assert all(f"(port {default} is taken)" in worker.output for worker in workers)
        first = Admin(workers[0])  # what it says of Redis may be a second old
        wait_until(
            lambda: (
                sorted(one["admin_port"] for one in first.status["overview"]["workers"])
                == sorted(ports)
            ),
            "each knows the other's port",
        )


def test_a_port_that_is_set_and_taken_ends_the_start_with_what_to_do(
    start_worker: StartWorker, client: RedisClient
) -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        worker = start_worker(ADMIN_PORT=PORT, ready=False)
        assert worker.wait() == 1
    last = worker.output.splitlines()[-1]
    assert f"ADMIN_PORT={PORT} is taken on 127.0.0.1 by another program or worker" in last
    assert f"(`ss -ltnp 'sport = :{PORT}'` names it): stop that, set another port, or unset" in last
    assert "takes jobs from" not in worker.output


def test_the_port_is_open_to_this_host_only_unless_it_is_set_otherwise(
    start_worker: StartWorker, client: RedisClient
) -> None:
    def addresses(**settings: object) -> set[str]:
        port = Admin(start_worker(**{"ADMIN_PORT": PORT, **settings})).port
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        local = [line.split()[1] for line in lines if line.split()[3] == "0A"]  # it listens
        return {address[:8] for address in local if address.endswith(f":{port:04X}")}

    assert addresses() == {"0100007F"}
    assert addresses(ADMIN_HOST="0.0.0.0", ADMIN_PORT=PORT + 1) == {"00000000"}


@pytest.mark.parametrize("settings", [{"ADMIN_HOST": "203.0.113.7"}, {"ADMIN_HOST": "no such"}])
def test_a_worker_that_cannot_listen_serves_all_the_same(
    start_worker: StartWorker, pipeline: Pipeline, settings: dict[str, str]
) -> None:
    worker = start_worker(ADMIN_PORT=PORT, **settings)
    assert "no metrics, health and status page: " in worker.output
    request = pipeline.submit(*page(60, 90, 1), "short", canvas=(64, 96))
    assert pipeline.fetch(request).shape == (60, 90, 3)


def test_port_0_turns_everything_off(start_worker: StartWorker, client: RedisClient) -> None:
    assert "status page" not in start_worker(ADMIN_PORT=0).output


def aged(watch: Watch, seconds: float, *names: str) -> Watch:
    """The watch, with some of its signs of life so much older."""
    for name in names:
        setattr(watch, name, time.monotonic() - seconds)
    return watch


def serving() -> Watch:
    watch = Watch()
    watch.serving("w", lambda: 0)
    return watch


def test_a_loop_counts_as_dead_within_half_a_minute() -> None:
    slowest_turn_s = COMMAND_TIMEOUT_S + LONGEST_DELAY_S + REDIS_TIMEOUT_S
    assert 1.5 * slowest_turn_s < STALE_S < 28


def test_what_counts_as_a_sign_of_life() -> None:
    old = STALE_S + 1
    assert serving().trouble() == ""
    assert "event loop" in aged(serving(), old, "_looped_at").trouble()
    assert "claiming loop" in aged(serving(), old, "_claimed_at").trouble()
    # Claiming may rest while a batch is in hand, which has a time-out of its own.
    busy = aged(serving(), old, "_claimed_at")
    busy.batch_started()
    assert busy.trouble() == ""
    busy.batch_done("long", ["a"], 1, load_s=0, infer_s=0, store_s=0, total_s=0)
    assert busy.trouble() == ""
    assert "claiming loop" in aged(busy, old, "_claimed_at").trouble()
    # And while Redis is away, as long as it is asked again and again.
    away = aged(serving(), old, "_claimed_at")
    away.redis_failed()
    assert away.trouble() == ""
    assert "claiming loop" in aged(away, old, "_redis_failed_at").trouble()
    stopping = aged(serving(), old, "_claimed_at")
    stopping.phase = Phase.STOPPING
    assert stopping.trouble() == ""
    assert aged(Watch(), old, "_claimed_at", "_looped_at").trouble() == ""  # still loading
