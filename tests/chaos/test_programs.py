"""How programs of a run end is put down; sender and receiver survive their own deaths."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chaos.jobs import Case, Jobs
from chaos.programs import Program, Tally
from chaos.receiver import FETCHED, VERDICTS, Receiver
from chaos.sender import Journal, Sender
from core.pixels import shm
from harness.device import BROKEN_TEXT
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.workers import OWN, segments


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    """Sender and receiver are programs: they set a handler for SIGTERM."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def run(tmp_path: Path, script: str, *numbers: int, kind: str = "worker") -> Tally:
    """What is put down of a program that gets some signals once it is ready."""
    tally, log = Tally(), tmp_path / "log"
    program = Program(kind, ["-c", f"import os, signal, time; {script}"], tally, log)
    program.start()
    if numbers:
        wait_until(lambda: "ready" in log.read_text(), "the program is ready")
    for number in numbers:
        program.send(number)
    wait_until(program.has_ended, "the program has ended")
    return tally


# In short sleeps: a signal just before a sleep is only handled behind it.
WAIT = "print('ready', flush=True)\nwhile True: time.sleep(0.01)"
DIES_OF_SIGTERM = (
    "signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGKILL));" + WAIT
)
SIGTERM_MEANS = "signal.signal(signal.SIGTERM, lambda *_: os._exit({}));" + WAIT


def test_a_kill_is_told_from_a_death_at_a_fault_point(tmp_path: Path) -> None:
    assert run(tmp_path, WAIT, signal.SIGKILL).kills == {"worker": 1}
    tally = run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert tally.kills == {"worker, by itself": 1}
    assert not tally.wrong


@pytest.mark.parametrize(("status", "is_fine"), [(0, True), (1, True), (143, True), (3, False)])
def test_a_stop_may_be_unclean_without_redis_and_nothing_else(
    tmp_path: Path, status: int, is_fine: bool
) -> None:
    tally = run(tmp_path, SIGTERM_MEANS.format(status), signal.SIGTERM)
    assert tally.wrong == [] if is_fine else "ended with 3" in tally.wrong[0]
    assert not tally.kills


def test_a_last_stop_must_be_clean_unless_it_was_to_kill(tmp_path: Path) -> None:
    script = f"import os, signal, time; {DIES_OF_SIGTERM}"
    for armed, kills, deviations in (({}, 0, 1), ({"FAULT_POINT": "stopped"}, 1, 0)):
        tally, log = Tally(), tmp_path / f"log-{kills}"
        program = Program("worker", ["-c", script], tally, log)
        program.start(**armed)
        program.wait_for_line("ready")
        program.finish()
        assert (tally.kills.total(), len(tally.wrong)) == (kills, deviations)


def test_an_end_that_nobody_asked_for_is_a_deviation(tmp_path: Path) -> None:
    for script in ("os._exit(1)", "os._exit(0)", "os.kill(os.getpid(), signal.SIGSEGV)"):
        assert "ended with" in run(tmp_path, script).wrong[0]


def test_an_end_for_the_broken_device_is_none_and_is_told_from_another_one(tmp_path: Path) -> None:
    tally = run(tmp_path, f"print({BROKEN_TEXT!r}, flush=True); os._exit(1)")
    assert (tally.wrong, tally.others) == ([], {"worker, device broken": 1})
    assert run(tmp_path, "os._exit(1)").wrong  # the same log


def test_a_program_is_well_unless_it_is_frozen_or_about_to_end(tmp_path: Path) -> None:
    tally = Tally()
    program = Program("worker", ["-c", f"import time; {WAIT}"], tally, tmp_path / "log")
    assert program.well() is None
    program.start()
    pid = program.pid
    assert program.well() == pid
    program.send(signal.SIGSTOP, pid + 1)
    assert program.well() == pid
    program.send(signal.SIGSTOP)
    assert program.well() is None
    assert tally.harmed == {pid}
    program.send(signal.SIGCONT)
    assert program.well() is None
    program.kill()


def test_segments_that_come_late_come_after_the_message(
    client: RedisClient, tmp_path: Path, shm_baseline: None
) -> None:
    jobs = Jobs(f"shm_{OWN}x", seed=1)
    number = next(number for number in range(1000) if jobs.case(number) is Case.LATE)
    journal = Journal(tmp_path / "journal")
    sender = Sender(client, jobs, journal, rate=1000)
    sender._send(number)
    assert client.llen(jobs.queue(number)) == 1
    assert (journal.read(), segments()) == (({number}, set()), set())

    def has_come() -> bool:
        sender._put_late()
        return bool(segments())

    wait_until(has_come, "the segments come")
    assert journal.read() == ({number}, {number})
    assert jobs.remove(number) == 2


def test_a_sender_goes_on_after_the_last_job_that_was_begun(
    client: RedisClient, tmp_path: Path, shm_baseline: None
) -> None:
    jobs = Jobs(f"shm_{OWN}x", seed=1)
    journal = Journal(tmp_path / "journal")
    for word, number in (("begun", 0), ("sent", 0), ("begun", 1)):
        journal.write(word, number)
    number = next(number for number in range(2, 1000) if jobs.case(number) is Case.GOOD)
    journal.write("begun", number - 1)

    class Once(Sender):
        def _wait_for_room(self) -> bool:
            return not self._stopped

        def _push(self, number: int, edition: int = 0) -> None:
            self._stopped = True
            super()._push(number, edition)

    Once(client, jobs, journal, rate=1000).run()
    begun, sent = journal.read()
    assert sent == {0, number}
    assert begun == {0, 1, number - 1, number}
    assert client.lpop(jobs.queue(number)) == jobs.payload(number)
    assert jobs.remove(number) == 2


def test_a_sender_sends_a_job_again_that_a_full_server_refused(
    client: RedisClient, tmp_path: Path, shm_baseline: None
) -> None:
    jobs = Jobs(f"shm_{OWN}x", seed=1)
    number = next(number for number in range(1000) if jobs.case(number) is Case.GOOD)
    journal = Journal(tmp_path / "journal")
    sender = Sender(client, jobs, journal, rate=1000)
    client.config_set("maxmemory", 1)
    sending = threading.Thread(target=sender._send, args=(number,))
    sending.start()
    sending.join(0.3)
    assert sending.is_alive()
    client.config_set("maxmemory", 0)
    sending.join(5)
    assert journal.read() == ({number}, {number})
    assert client.lrange(jobs.queue(number), 0, -1) == [jobs.payload(number)]
    jobs.remove(number)


def test_a_receiver_finishes_what_it_had_fetched_before_it_died(
    client: RedisClient, shm_baseline: None
) -> None:
    jobs = Jobs(f"shm_{OWN}x", seed=1)

    def fetched(number: int, name: str) -> None:
        picture = jobs.expected(number)
        info = {"shm_name": name, "shape": list(picture.shape), "dtype": "uint8"}
        entry = [f"inpainting_result:{jobs.request(number)}", json.dumps(info)]
        client.rpush(FETCHED, json.dumps(entry))

    right, other = (f"img_{jobs.tag}{name}" for name in ("right", "other"))
    shm.write(right, np.ascontiguousarray(jobs.expected(5)), 0o600)
    fetched(5, right)
    shm.write(other, np.zeros_like(jobs.expected(6)), 0o600)
    fetched(6, other)
    fetched(7, "gone")
    judged = {"request": jobs.request(8), "problem": "", "edition": 0, "order": 0}
    client.hset(VERDICTS, "judged", json.dumps(judged))
    fetched(8, "judged")  # and unlinked; only the note was left
    receiver = Receiver(client, jobs)
    receiver._round()
    verdicts = {name.decode(): json.loads(text) for name, text in client.hgetall(VERDICTS).items()}
    assert {name: [*verdict.values()] for name, verdict in verdicts.items()} == {
        right: [jobs.request(5), "", 0, 1],
        other: [jobs.request(6), "other pixels", None, 2],
        "gone": [jobs.request(7), "the segment is missing", None, 3],
        "judged": [jobs.request(8), "", 0, 0],
    }
    assert not client.exists(FETCHED)
    assert not segments()
