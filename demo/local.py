"""`./run worker`: a worker and, unless REDIS_URL names one, a Redis for it.

Ctrl-C stops the worker as usual, then the Redis. Jobs that wait stay in its data.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from core.config import PROJECT_ROOT, load_settings
from core.errors import WorkerError
from demo.shared_redis import SharedRedis
from harness.process import python
from harness.redis_server import RedisServerError

FOLDER = PROJECT_ROOT / ".redis"

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SAID = """\
a Redis of this folder is at {url}; its data is in {folder}
To send a picture, in another terminal:
    REDIS_URL={url} ./run python worker.py submit page.jpg page-mask.png -o clean.png
Ctrl-C stops the worker and the Redis. Jobs that wait are kept for the next start.
"""


def main(
    arguments: Sequence[str],
    folder: Path = FOLDER,
    program: Path = PROJECT_ROOT / "worker.py",
) -> int:
    """Run a worker until it ends; its exit status. `arguments` are those of `run`."""
    try:
        settings = load_settings()
        if "redis_url" in settings.model_fields_set:
            return _worker([program, "run", *arguments], settings.redis_url)
        with SharedRedis(folder) as server:
            print(SAID.format(url=server.url, folder=folder), file=sys.stderr, flush=True)
            return _worker([program, "run", *arguments], server.url)
    except (WorkerError, RedisServerError, OSError) as error:
        print(f"./run worker: {error}", file=sys.stderr)
        return 1


def _worker(command: Sequence[object], url: str) -> int:
    """Run the worker in a process group of its own, and pass every signal on to it once."""
    environment = {**os.environ, "REDIS_URL": url}
    worker = subprocess.Popen(python(*command), env=environment, process_group=0)

    def forward(number: int, _: FrameType | None) -> None:
        worker.send_signal(number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, forward)
    with worker:
        return worker.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
