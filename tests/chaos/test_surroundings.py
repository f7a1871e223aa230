"""What chaos does to the surroundings of a worker is done."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from chaos import disturbances, probe, surroundings
from chaos.__main__ import possible
from chaos.arena import Disturbance
from chaos.probe import Crowd, free_ports
from chaos.programs import Tally
from chaos.servers import Servers
from core.errors import DeviceFault
from harness import private
from harness.device import BROKEN_TEXT, Device, State
from harness.waiting import wait_until


def test_the_replica_takes_over_all_that_was_confirmed_and_the_old_master_refuses() -> None:
    with Servers(with_replica=True) as servers, servers.client() as old:
        old.set("a", "confirmed")
        assert servers.switch()
        with pytest.raises(redis.exceptions.ReadOnlyError):
            old.set("a", "to the old one")
        with servers.client() as new:
            assert new.get("a") == b"confirmed"
            new.set("a", "newer")
        assert servers.switch()  # and back
        with servers.client() as again:
            assert again.get("a") == b"newer"
            assert again.info("server")["tcp_port"] == old.info("server")["tcp_port"]


def test_a_full_server_refuses_until_the_limit_is_gone() -> None:
    with Servers(with_replica=False) as servers, servers.client() as client:
        servers.set_limit(1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("a", "b")
        servers.set_limit(0)
        assert client.set("a", "b")


@pytest.mark.skipif(not private.is_allowed(), reason="mount namespaces are refused here")
def test_a_private_program_sees_a_shared_memory_of_its_own() -> None:
    listed = subprocess.run(
        [*private.own_shm(), "sh", "-c", "touch /dev/shm/x; ls /dev/shm; stat -c %d /dev/shm"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert listed[0] == "x"
    assert int(listed[1]) != os.stat("/dev/shm").st_dev
    assert not Path("/dev/shm/x").exists()


def test_a_run_goes_on_without_mount_namespaces_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen: list[Disturbance] = [disturbances.kill, surroundings.blind]
    for refusing in (("false",), ("/nowhere/unshare",)):
        monkeypatch.setattr(private, "own_shm", lambda command=refusing: command)
        assert possible(chosen) == [disturbances.kill]
        assert "goes on without blind" in capsys.readouterr().out


def test_a_device_is_broken_until_it_is_repaired(tmp_path: Path) -> None:
    device = Device(tmp_path / "device")
    device.use(["3.jpg"])
    device.put(State.BROKEN, to=True)
    with pytest.raises(DeviceFault, match=BROKEN_TEXT):
        device.use(["3.jpg", "kill.jpg", "4.jpg"])
    device.put(State.BROKEN, to=False)
    device.use(["3.jpg"])
    assert device.crashes({os.getpid()}) == {3: 1, 4: 1}
    assert device.crashes(set()) == {}


def test_an_inference_that_is_held_up_takes_until_it_is_let_go(tmp_path: Path) -> None:
    device = Device(tmp_path / "device")
    device.hold_up(os.getpid(), to=True)
    inference = threading.Thread(target=device.use, args=([],))
    inference.start()
    inference.join(0.2)
    assert inference.is_alive()
    device.hold_up(os.getpid(), to=False)
    inference.join(2)
    assert not inference.is_alive()


class Admin(http.server.ThreadingHTTPServer):
    """An admin port that can be made to refuse."""

    refuses = False
    daemon_threads = True

    def verify_request(self, *_: object) -> bool:
        return not self.refuses


class Answer(http.server.BaseHTTPRequestHandler):
    timeout = 5

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def admin() -> Iterator[Admin]:
    with Admin(("127.0.0.1", free_ports(1)[0]), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_crowd_sits_on_a_port_and_a_refused_probe_is_a_deviation(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "IDLE_CLIENTS", 20)
    monkeypatch.setattr(probe, "ANSWER_S", 20)  # this machine may be busy
    tally = Tally()
    crowd = Crowd(admin.server_port, 20, lambda: 7, tally)
    crowd.start()
    wait_until(lambda: tally.others["probes answered"] > 2, "the probe is answered")
    assert tally.wrong == []
    admin.refuses = True
    wait_until(lambda: tally.wrong, "a deviation is noted")
    crowd.end()
    assert "process 7: /livez" in tally.wrong[0]


def test_a_process_that_is_loading_or_not_well_need_not_answer() -> None:
    with socket.socket() as silent:  # bound and not listening
        silent.bind(("127.0.0.1", 0))
        for well in (lambda: 7, lambda: None):
            tally = Tally()
            crowd = Crowd(silent.getsockname()[1], 0.5, well, tally)
            crowd.start()
            crowd.join()
            assert (tally.wrong, tally.others) == ([], {})
