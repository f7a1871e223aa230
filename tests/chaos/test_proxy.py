"""The proxy does to connections what it says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from chaos.proxy import Proxy
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until

ALL = 1.0


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as running:
        yield running


@pytest.fixture
def through(proxy: Proxy) -> Iterator[RedisClient]:
    """A client whose one connection goes through the proxy; it gives up after half a second."""
    options: dict[str, Any] = {"socket_timeout": 0.5, "retry": None}
    with redis.Redis(
        port=proxy.port, protocol=2, single_connection_client=True, **options
    ) as client:
        assert client.ping()
        yield client


def test_what_passes_is_not_changed(through: RedisClient, client: RedisClient) -> None:
    value = random.Random(1).randbytes(1 << 20)
    through.set("a", value)
    assert through.get("a") == client.get("a") == value


def test_a_cut_connection_is_gone(proxy: Proxy, through: RedisClient) -> None:
    proxy.cut(random.Random(1), ALL)
    with pytest.raises(redis.ConnectionError):
        through.ping()


def test_a_command_whose_reply_is_lost_was_done(
    proxy: Proxy, through: RedisClient, client: RedisClient
) -> None:
    proxy.lose_replies(random.Random(1), ALL)
    with pytest.raises(redis.ConnectionError):
        through.set("a", "done")
    assert client.get("a") == b"done"


def test_what_is_sent_into_a_frozen_connection_arrives_after_its_sender_has_given_up(
    proxy: Proxy, through: RedisClient, client: RedisClient
) -> None:
    proxy.freeze(random.Random(1), ALL, 1.5)
    with pytest.raises(redis.TimeoutError):
        through.set("a", "late")
    through.close()
    assert client.get("a") is None
    wait_until(lambda: client.get("a") == b"late", "the command arrives")


def test_a_late_reply_is_late_and_its_command_is_not(
    proxy: Proxy, through: RedisClient, client: RedisClient
) -> None:
    proxy.answer_late(random.Random(1), ALL, 60)
    with pytest.raises(redis.TimeoutError):
        through.set("a", "done")
    assert client.get("a") == b"done"
    proxy.heal()


def test_another_target_is_for_new_connections(
    proxy: Proxy, through: RedisClient, client: RedisClient
) -> None:
    with RedisServer() as other:
        proxy.target = other.port
        through.set("a", "old")
        with redis.Redis(port=proxy.port, protocol=2) as later:
            later.set("a", "new")
    assert client.get("a") == b"old"
