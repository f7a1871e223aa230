"""Redis over TLS, with a login, and behind Sentinel, for real."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import ssl
import subprocess
import threading
import time
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


def wait_for_heartbeat(pipeline: Pipeline) -> None:
    """Wait for a heartbeat that knows of a job that is done: it takes the blocking client."""

    def has_beaten() -> bool:
        beats = map(pipeline.redis.get, pipeline.redis.scan_iter("inpainting:worker:*"))
        return any(json.loads(beat)["done"] for beat in beats if beat)

    wait_until(has_beaten, "the heartbeat is renewed")


# -- TLS ---------------------------------------------------------------------------------------


class TlsEndpoint(socketserver.ThreadingTCPServer):
    """Takes TLS off and passes bytes on to a plain server; in its replies a text is replaced."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, context: ssl.SSLContext, target: int, swap: tuple[str, str]) -> None:
        self.context = context
        self.target = target
        self.swap = swap
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
            back = threading.Thread(
                target=self._pass_on, args=(plain, self.request, self.server.swap), daemon=True
            )
            back.start()
            self._pass_on(self.request, plain)
            back.join()

    @staticmethod
    def _pass_on(
        source: socket.socket, sink: socket.socket, swap: tuple[str, str] = ("", "")
    ) -> None:
        old, new = (text.encode() for text in swap)
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data.replace(old, new))
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Authority:
    """Issues the certificates of endpoints; `file` vouches for them."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)
        self.file = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.file))

    @contextlib.contextmanager
    def vouch_for(self, target: int, swap: tuple[str, str] = ("", "")) -> Iterator[int]:
        """The port at which a plain server answers over TLS."""
        with TlsEndpoint(self.context, target, swap) as endpoint:
            threading.Thread(target=endpoint.serve_forever, args=(0.05,), daemon=True).start()
            yield endpoint.server_address[1]
            endpoint.shutdown()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls(server: RedisServer, authority: Authority) -> Iterator[str]:
    """A rediss:// URL of the test server, with the certificate that vouches for it."""
    with authority.vouch_for(server.port) as port:
        yield f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority.file}"


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


def test_a_certificate_of_another_name_is_accepted_if_the_url_says_so(
    start_worker: StartWorker, pipeline: Pipeline, tls: str
) -> None:
    url = tls.replace("127.0.0.1", "localhost")
    worker = start_worker(REDIS_URL=url, ready=False)
    worker.wait_for_line("certificate verify failed")
    assert worker.stop() == 0
    for option in ("ssl_check_hostname=false", "ssl_cert_reqs=none", "ssl_cert_reqs=None"):
        with sync_client(Settings(redis_url=f"{url}&{option}").redis_url) as client:
            assert client.ping()


# -- Options -----------------------------------------------------------------------------------


def test_options_of_other_programs_change_nothing(
    start_worker: StartWorker, pipeline: Pipeline, server: RedisServer
) -> None:
    worker = start_worker(
        REDIS_URL=f"{server.url}/0?decode_responses=True&socket_timeout=0.1&protocol=3&timeout=1"
        "&max_connections=1&encoding=utf-16&retry_on_timeout=True&socket_read_size=1&"
        "client_name=me&health_check_interval=1&socket_keepalive=1",
        HEARTBEAT_INTERVAL_S=0.05,
    )
    worker.wait_for_line("REDIS_URL: decode_responses, socket_timeout, protocol, timeout, max_")
    time.sleep(3)  # longer than a wait for jobs, and than the interval of health checks
    for kind in ("long", "short"):
        request = pipeline.submit(*page(60, 90, 1), kind, canvas=(64, 96))
        assert pipeline.fetch(request).shape == (60, 90, 3)
    wait_for_heartbeat(pipeline)
    assert {c["name"] for c in pipeline.redis.client_list() if "blmove" in c["cmd"]} == {"me"}
    assert worker.stop() == 0
    assert "cannot be used" not in worker.output


def test_an_option_that_is_impossible_ends_the_worker_at_the_start(
    start_worker: StartWorker, server: RedisServer
) -> None:
    worker = start_worker(
        REDIS_URL=f"{server.url.replace('redis', 'rediss')}?ssl_cert_reqs=CERT_NONE", ready=False
    )
    worker.wait_for_line("the option ssl_cert_reqs must be none, optional or required")
    assert worker.wait() == 1


# -- Sentinel ----------------------------------------------------------------------------------


@contextlib.contextmanager
def sentinels(
    master: RedisServer,
    folder: Path,
    *,
    replicas: int = 1,
    password: str = "",
    login: str = "",
    user: str = "",
) -> Iterator[str]:
    """Three sentinels that watch a master; the URL for the worker.

    `password` is the sentinels' own, `login` what the URL has and, behind a colon, the master's.
    `user` is a user of the sentinels with their password, who may only ask for masters.
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
                + f"user {user} on >{password} -@all +sentinel|masters\n" * bool(user)
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
            wait_for_heartbeat(pipeline)
        assert worker.stop() == 0
        assert "cannot be used" not in worker.output


@pytest.mark.parametrize(
    ("options", "password", "user"),
    [
        ("sentinel_password=o%26ther", "o&ther", ""),
        ("sentinel_username=it&sentinel_password=o%26ther", "o&ther", "it"),
        ("sentinel_password=other", "", ""),  # which they refuse: they have none
        ("sentinel_username=it&sentinel_password=other", "", ""),
    ],
)
@pytest.mark.parametrize("login", ["", ":secret"])
def test_sentinels_have_a_login_of_their_own(
    start_worker: StartWorker,
    server: RedisServer,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    shm_baseline: None,
    options: str,
    password: str,
    user: str,
    login: str,
) -> None:
    master = request.getfixturevalue("locked") if login else server
    with sentinels(master, tmp_path, replicas=0, password=password, login=login, user=user) as url:
        worker = start_worker(REDIS_URL=f"{url}?{options}", HEARTBEAT_INTERVAL_S=0.05)
        with OwnPipeline(master.url.replace("//", f"//{login}@")) as pipeline:
            job = pipeline.submit(*page(60, 90, 1), "long", canvas=(64, 96))
            assert pipeline.fetch(job).shape == (60, 90, 3)
            wait_for_heartbeat(pipeline)
        assert worker.stop() == 0
        assert "cannot be used" not in worker.output


def test_sentinels_of_which_each_wants_another_login_are_all_asked(
    locked: RedisServer, tmp_path: Path
) -> None:
    with sentinels(locked, tmp_path, replicas=0, password="other", login=":secret") as url:
        first = int(url.partition("127.0.0.1:")[2][:5].strip(","))
        with redis.Redis(port=first, protocol=2, password="other") as sentinel:
            sentinel.execute_command("ACL", "SETUSER", "default", "nopass")
        with sync_client(Settings(redis_url=f"{url}?sentinel_password=other").redis_url) as client:
            for _ in range(3):
                assert client.ping()
                client.connection_pool.disconnect()


def test_sentinels_and_servers_are_reached_over_tls_with_the_options_of_the_url(
    start_worker: StartWorker,
    pipeline: Pipeline,
    authority: Authority,
    server: RedisServer,
    tmp_path: Path,
) -> None:
    with sentinels(server, tmp_path, replicas=0) as url, authority.vouch_for(server.port) as master:
        port = int(url.rpartition(":")[2].partition("/")[0])
        with authority.vouch_for(port, (str(server.port), str(master))) as sentinel:
            url = f"rediss+sentinel://127.0.0.1:{sentinel}/{SERVICE}"
            worker = start_worker(
                REDIS_URL=f"{url}?ssl_ca_certs={authority.file}", HEARTBEAT_INTERVAL_S=0.05
            )
            request = pipeline.submit(*page(60, 90, 1), "long", canvas=(64, 96))
            assert pipeline.fetch(request).shape == (60, 90, 3)
            wait_for_heartbeat(pipeline)
            assert worker.stop() == 0
            with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
                sync_client(Settings(redis_url=url).redis_url).ping()


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
            sync_client(Settings(redis_url=url).redis_url).ping()
        assert worker.stop() == 0
