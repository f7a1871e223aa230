"""The same stages on Ray: decode and encode are tasks, each network is an actor.

Ray Data places them, holds decoding back while the networks are busy, and does again what was lost
with an actor or a node: at most the pictures in flight there. Nothing is scheduled here.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from bulk.errors import BulkRefused, PictureError
from bulk.local import Note
from bulk.stages import Decoder, Encoder, Filler, Item, Work
from bulk.tasks import Task
from core.config import Settings

#: Pictures of a task that decodes, and of a call of the network.
BLOCK, BATCH = 4, 8

#: Bytes of decoded pictures that Ray moves as one.
BLOCK_BYTES: Final = 16 * 1024 * 1024

#: How often Ray tries a call again whose actor was lost. Not without end: it may have been one of
#: its pictures. A node that went uses these up within seconds, before Ray knows that it is gone.
RETRIES: Final = 3

#: What is lost even so is done in rounds of its own, each picture by itself: one that kills its
#: actor takes no other with it.
ROUNDS: Final = 3

#: Seconds that the head of a cluster has to answer.
CONNECT_S: Final = 10.0

#: Share of a core that a task asks for that decodes or encodes.
TASK_CPUS: Final = 0.5

#: The same of a network without a GPU; see `networks`.
NETWORK_CPUS: Final = 0.25

#: Bytes of memory to each network without a GPU.
NETWORK_MEMORY: Final = 2 << 30

Row = dict[str, Any]


class _Decode:
    """A task's picture; a row that could not be done goes on with its error."""

    def __init__(self, work: Work) -> None:
        self._decoder = Decoder(work)

    def __call__(self, row: Row) -> Row:
        task: Task = pickle.loads(row["task"])  # noqa: S301 - our own
        try:
            item, error = self._decoder(task), None
        except PictureError as raised:
            item, error = None, raised
        return {"name": row["name"], "item": pickle.dumps(item, 5), "error": pickle.dumps(error)}


class _Fill:
    """An actor: it loads the network once."""

    def __init__(self, settings: Settings, work: Work, threads: int) -> None:
        from core.network import settle_memory

        settle_memory()
        if threads:
            import torch

            torch.set_num_threads(threads)
        # Ray calls from another thread than this one, and each thread that computes brings OpenMP
        # threads of its own. With more of them than cores, OpenMP lets all sleep at every join,
        # which costs a quarter of the time; those of a thread that has ended don't count.
        with ThreadPoolExecutor(1) as passing:
            self._filler = passing.submit(Filler, settings, work.region).result()

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        items = [pickle.loads(one) for one in rows["item"]]  # noqa: S301
        errors = [pickle.loads(one) for one in rows["error"]]  # noqa: S301
        good = [index for index, item in enumerate(items) if item is not None]
        results: Sequence[Any] = self._filler([items[index] for index in good])
        filled: list[Any] = [None] * len(items)
        for index, result in zip(good, results, strict=True):
            if isinstance(result, PictureError):
                items[index], errors[index] = None, result
            else:
                filled[index] = result
        pairs = zip(items, filled, strict=True)
        return {
            "name": rows["name"],
            "item": _column(pickle.dumps(pair, 5) for pair in pairs),
            "error": _column(map(pickle.dumps, errors)),
        }


class _Encode:
    """A task that writes a result; what goes on is the name and the error."""

    def __init__(self, work: Work) -> None:
        self._encoder = Encoder(work)

    def __call__(self, row: Row) -> Row:
        error = pickle.loads(row["error"])  # noqa: S301
        item: Item | None
        item, filled = pickle.loads(row["item"])  # noqa: S301
        if item is not None:
            try:
                self._encoder(item, filled)
            except PictureError as raised:
                error = raised
        return {"name": row["name"], "error": pickle.dumps(error)}


def run(
    tasks: Sequence[Task],
    work: Work,
    settings: Settings,
    address: str,
    workers: int,
    note: Note,
) -> None:
    """Do all tasks on a cluster: the one at `address`, or one of this machine's own for 'local'.

    `workers` is the number of networks, 0 for one per GPU or, without, per core. Raises
    BulkRefused if Ray is missing or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Of a cluster started here: its processes are not to yield to all others.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BulkRefused(
            f"--ray needs Ray ({error}): pip install -r ray_requirements.txt"
        ) from None
    _check_reachable(address)
    try:
        local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
        raise BulkRefused(f"--ray {address}: there is no cluster to join: {error}") from error
    try:
        _run(ray, tasks, work, settings, workers, note)
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse HOST:PORT where nobody listens: Ray would go on asking there, without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # 'local', 'auto', or something that Ray refuses itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise BulkRefused(
            f"--ray {address}: there is no cluster to join: {error}; take the address that "
            "`ray start --head` prints, auto, or --ray alone for this machine"
        ) from error


def _run(
    ray: Any, tasks: Sequence[Task], work: Work, settings: Settings, workers: int, note: Note
) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray").setLevel(logging.ERROR)  # progress is told by `note`
    context.target_max_block_size = BLOCK_BYTES
    # A block that cannot be done must not end the others; its pictures are named below.
    context.max_errored_blocks = -1
    left = {task.name: task for task in tasks}
    for number in range(ROUNDS):
        alone = number > 0
        for row in _results(ray, list(left.values()), work, settings, workers, alone):
            if left.pop(row["name"], None) is not None:
                note(row["name"], pickle.loads(row["error"]))  # noqa: S301
        if not left:
            break
    for name in left:
        note(name, PictureError("lost", f"whoever had it was lost, in each of {ROUNDS} rounds"))


def _results(
    ray: Any, tasks: Sequence[Task], work: Work, settings: Settings, workers: int, alone: bool
) -> Iterator[Row]:
    """Names and errors of what was done, as it is done; what is lost isn't among them."""
    # What there is now: in a later round it may be less.
    size, share = networks(ray.cluster_resources(), settings.use_cuda, workers)
    block, batch = (1, 1) if alone else (BLOCK, BATCH)
    rows = [{"name": task.name, "task": pickle.dumps(task)} for task in tasks]
    with warnings.catch_warnings():
        # Ray means to rename how restarts are bounded, and has no other name for it yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        results = (
            ray.data.from_items(rows, override_num_blocks=max(1, -(-len(rows) // block)))
            .map(_Decode(work).__call__, num_cpus=TASK_CPUS)
            .map_batches(
                _Fill,
                batch_size=batch,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
                fn_constructor_args=(settings, work, share.pop("threads")),
                max_restarts=-1,
                max_task_retries=RETRIES,
                **share,
            )
            .map(_Encode(work).__call__, num_cpus=TASK_CPUS)
        )
    yield from results.iter_rows()


def networks(
    resources: dict[str, float], use_cuda: bool, workers: int
) -> tuple[int, dict[str, Any]]:
    """How many actors, and what one of them asks for: num_gpus or num_cpus, and its threads.

    Without a GPU there is one per core, as far as memory goes: a network of one thread waits for no
    other when Ray's own processes, or the decoding, want its core.

    An actor asks for a part of a core only: where nodes go, all actors may come to be on what is
    left, and decoding must have a place there too.
    """
    gpus = int(resources.get("GPU", 0)) if use_cuda else 0
    if gpus:
        size = workers or gpus
        return size, {"num_gpus": min(1.0, gpus / size), "num_cpus": 1, "threads": 0}
    cores = max(1, int(resources.get("CPU", 1)))
    room = int(resources.get("memory", cores * NETWORK_MEMORY)) // NETWORK_MEMORY
    size = workers or max(1, min(cores, room))
    threads = max(1, cores // size)
    return size, {"num_cpus": NETWORK_CPUS, "threads": threads}


def _column(values: Any) -> Any:
    """An array of bytes, which numpy would otherwise cut at trailing zeros."""
    listed = list(values)
    column = np.empty(len(listed), object)
    column[:] = listed
    return column
