"""A network that misbehaves: a proxy in front of Redis, in a thread of this process.

Each connection can be cut, frozen in both directions, made to answer late, or made to lose its
next reply, after which it is cut: the command was done and its sender never hears of it. What was
sent into a frozen connection arrives when it thaws, even if its sender is dead by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

CHUNK = 65536


class Connection:
    """One connection and what is wrong with it at present."""

    def __init__(self, writers: list[asyncio.StreamWriter]) -> None:
        self._writers = writers
        self.requests_held_until = 0.0  # loop time
        self.replies_held_until = 0.0
        self.loses_reply = False

    def cut(self) -> None:
        """Reset both ends; what is on its way is lost."""
        for writer in self._writers:
            writer.transport.abort()

    async def pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool
    ) -> None:
        """Pass on what comes until its sender closes."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                while True:
                    until = self.replies_held_until if replies else self.requests_held_until
                    if (left := until - loop.time()) <= 0:
                        break
                    await asyncio.sleep(min(left, 0.1))  # it may be healed
                if replies and self.loses_reply:
                    self.cut()
                    return
                if not writer.is_closing():
                    writer.write(data)
                    await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


class Proxy:
    """Listens on `port` for as long as it is a context, and passes on to `target`.

    Another target is for new connections; those that are open keep theirs.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._loop = asyncio.new_event_loop()
        self._connections: set[Connection] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self.port = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def lead_to(self, target: int) -> None:
        """Pass new connections on to another port; those that are there stay."""
        self.target = target

    def cut(self, chosen: random.Random, share: float) -> None:
        """Cut a share of the connections."""
        self._each(chosen, share, Connection.cut)

    def freeze(self, chosen: random.Random, share: float, seconds: float) -> None:
        """Let nothing pass on a share of the connections for a while."""

        def hold(connection: Connection) -> None:
            connection.requests_held_until = self._loop.time() + seconds
            connection.replies_held_until = self._loop.time() + seconds

        self._each(chosen, share, hold)

    def answer_late(self, chosen: random.Random, share: float, seconds: float) -> None:
        """Hold replies back on a share of the connections for a while."""

        def hold(connection: Connection) -> None:
            connection.replies_held_until = self._loop.time() + seconds

        self._each(chosen, share, hold)

    def lose_replies(self, chosen: random.Random, share: float) -> None:
        """Lose the next reply on a share of the connections, which are cut then."""

        def lose(connection: Connection) -> None:
            connection.loses_reply = True

        self._each(chosen, share, lose)

    def heal(self) -> None:
        """Stop what is going on; what was lost stays lost."""

        def release(connection: Connection) -> None:
            connection.requests_held_until = connection.replies_held_until = 0.0

        self._each(random.Random(0), 1.0, release)  # noqa: S311 - nothing is secret here

    def _each(
        self, chosen: random.Random, share: float, action: Callable[[Connection], None]
    ) -> None:
        done = threading.Event()

        def do() -> None:
            for connection in list(self._connections):
                if chosen.random() < share:
                    action(connection)
            done.set()

        self._loop.call_soon_threadsafe(do)
        done.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self._listen())
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        pending: Any = asyncio.gather(*asyncio.all_tasks(self._loop), return_exceptions=True)
        self._loop.run_until_complete(pending)

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # the server is down
            writer.close()
            return
        connection = Connection([writer, back])
        self._connections.add(connection)
        try:
            await asyncio.gather(
                connection.pump(reader, back, replies=False),
                connection.pump(there, writer, replies=True),
            )
        except asyncio.CancelledError:
            pass  # the proxy ends; before Python 3.12 asyncio complains of a server's task that did
        finally:
            self._connections.discard(connection)
            connection.cut()
