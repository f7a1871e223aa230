"""Redis over TLS, with a login, and behind Sentinel, for real."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme

from core.broker.connection import sync_client
from core.config import Settings
from harness.redis_server import RedisServer, find_binary
from harness.waiting import wait_until
from harness.wire import Pipeline, page
from harness.workers import OwnPipeline, StartWorker

SERVICE = "pictures"


# -- TLS ---------------------------------------------------------------------------------------


class TlsEndpoint(socketserver.ThreadingTCPServer):
    """Takes TLS off and passes bytes on to a plain server."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, context: ssl.SSLContext, target: int) -> None:
        self.context = context
        self.target = target
        super().__init__(("127.0.0.1", 0), Relay)

    def get_request(self) -> tuple[socket.socket, object]:
        plain, address = super().get_request()
        return self.context.wrap_socket(plain, server_side=True), address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away, or trusts nobody, is none."""


class Relay(socketserver.BaseRequestHandler):
    server: TlsEndpoint

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.target)) as plain:
            back = threading.Thread(target=self._pass_on, args=(plain, self.request), daemon=True)
            back.start()
            self._pass_on(self.request, plain)
            back.join()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def tls(server: RedisServer, tmp_path: Path) -> Iterator[str]:
    """A rediss:// URL of the test server, with the certificate that vouches for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    with TlsEndpoint(context, server.port) as endpoint:
        threading.Thread(target=endpoint.serve_forever, args=(0.05,), daemon=True).start()
        yield f"rediss://127.0.0.1:{endpoint.server_address[1]}?ssl_ca_certs={trusted}"
        endpoint.shutdown()


def test_jobs_are_done_over_tls(start_worker: StartWorker, pipeline: Pipeline, tls: str) -> None:
    worker = start_worker(REDIS_URL=tls)
    for kind in ("long", "short"):
        request = pipeline.submit(*page(60, 90, 1), kind, canvas=(64, 96))
        assert pipeline.fetch(request).shape == (60, 90, 3)
    assert worker.stop() == 0


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(
    start_worker: StartWorker, pipeline: Pipeline, tls: str
) -> None:
    worker = start_worker(REDIS_URL=tls.partition("?")[0], ready=False)
    worker.wait_for_line("certificate verify failed")
    assert worker.stop() == 0


# -- Sentinel ----------------------------------------------------------------------------------


@contextlib.contextmanager
def sentinels(
    master: RedisServer, folder: Path, *, replicas: int = 1, password: str = "", login: str = ""
) -> Iterator[str]:
    """Three sentinels that watch a master; the URL for the worker.

    `password` is the sentinels' own, `login` what the URL has and, behind a colon, the master's.
    """
    processes, ports = [], []
    try:
        for number in range(3):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
            config = folder / f"sentinel-{number}.conf"
            config.write_text(
                f"port {ports[-1]}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} 500\n"
                f"sentinel failover-timeout {SERVICE} 2000\n"
                + (f"requirepass {password}\nsentinel sentinel-pass {password}\n" * bool(password))
                + f"sentinel auth-pass {SERVICE} {login.partition(':')[2]}\n" * bool(login)
            )
            processes.append(
                subprocess.Popen(
                    [find_binary(), str(config), "--sentinel"],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        wait_until(
            lambda: all(_knows(port, password, 2, replicas) for port in ports),
            "the sentinels know each other and the replicas",
        )
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield f"redis+sentinel://{login}{'@' * bool(login)}{hosts}/{SERVICE}"
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _knows(port: int, password: str, others: int, replicas: int) -> bool:
    login: dict[str, Any] = {"password": password or None, "decode_responses": True}
    with redis.Redis(port=port, protocol=2, **login) as sentinel:
        try:
            state = sentinel.sentinel_master(SERVICE)
        except redis.RedisError:
            return False
        return (state["num-other-sentinels"], state["num-slaves"]) == (others, replicas)


def _link_is_up(replica: RedisServer) -> bool:
    with redis.Redis(port=replica.port, protocol=2) as client:
        return client.info("replication").get("master_link_status") == "up"


def test_a_worker_follows_a_failover_and_goes_on_with_the_new_master(
    start_worker: StartWorker, tmp_path: Path, shm_baseline: None
) -> None:
    with RedisServer() as master:
        behind = {"replicaof": f"127.0.0.1 {master.port}", "repl-diskless-sync-delay": "0"}
        with RedisServer(options=behind) as replica:
            wait_until(lambda: _link_is_up(replica), "the replica follows")
            with sentinels(master, tmp_path) as url:
                worker = start_worker(REDIS_URL=url, HEARTBEAT_INTERVAL_S=0.2, HEARTBEAT_TTL_S=2)
                with OwnPipeline(master.url) as pipeline:
                    request = pipeline.submit(*page(60, 90, 1), "long", canvas=(64, 96))
                    assert pipeline.fetch(request).shape == (60, 90, 3)
                master.stop()
                worker.wait_for_line("cannot be used")
                with redis.Redis(port=replica.port, protocol=2) as client:
                    wait_until(lambda: client.role()[0] == b"master", "the replica is promoted")
                with OwnPipeline(replica.url) as pipeline:
                    request = pipeline.submit(*page(60, 90, 2), "short", canvas=(64, 96))
                    assert pipeline.fetch(request).shape == (60, 90, 3)
                assert worker.stop() == 0


@pytest.fixture
def locked() -> Iterator[RedisServer]:
    """A server whose default user has the password `secret`, and so has another, `me`."""
    with RedisServer() as master, redis.Redis(port=master.port, protocol=2) as client:
        client.execute_command("ACL", "SETUSER", "me", "on", ">secret", "~*", "&*", "+@all")
        client.config_set("requirepass", "secret")
        client.execute_command("AUTH", "secret")
        yield master


@pytest.mark.parametrize(
    ("login", "password"), [(":secret", ""), ("me:secret", ""), (":secret", "secret")]
)
def test_sentinels_are_asked_with_the_masters_login_or_without_one(
    start_worker: StartWorker,
    locked: RedisServer,
    tmp_path: Path,
    shm_baseline: None,
    login: str,
    password: str,
) -> None:
    with sentinels(locked, tmp_path, replicas=0, password=password, login=login) as url:
        worker = start_worker(REDIS_URL=url, HEARTBEAT_INTERVAL_S=0.05)
        with OwnPipeline(locked.url.replace("//", "//:secret@")) as pipeline:
            request = pipeline.submit(*page(60, 90, 1), "long", canvas=(64, 96))
            assert pipeline.fetch(request).shape == (60, 90, 3)
        assert worker.stop() == 0
        assert "cannot be used" not in worker.output
        assert "no heartbeat" not in worker.output  # which has a blocking client


def test_sentinels_that_want_another_login_are_one_short_line(
    start_worker: StartWorker, locked: RedisServer, tmp_path: Path
) -> None:
    with sentinels(locked, tmp_path, replicas=0, password="other", login=":secret") as url:
        worker = start_worker(REDIS_URL=url, ready=False)
        worker.wait_for_line("cannot be used")
        (line,) = [one for one in worker.output.splitlines() if "cannot be used" in one]
        assert re.search(
            r"no sentinel names a master of 'pictures': .*Authentication required\)", line
        )
        assert len(line) < 400
        assert "secret" not in worker.output
        with pytest.raises(
            redis.ConnectionError, match=r"^no sentinel names a master of 'pictures'"
        ):
            sync_client(Settings(redis_url=url)).ping()
        assert worker.stop() == 0
