"""Runs the stages on Ray: decode and encode are tasks, each network is an actor.

Ray Data schedules them, throttles decoding while the networks are busy, and retries what was lost
with an actor or a node: at most the pictures in flight there.
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

from bulk.errors import BulkRefused
from bulk.local import Note
from bulk.stages import Decoder, Encoder, Filler, Item, Work
from bulk.tasks import Task
from core.config import Settings
from core.pictures.errors import PictureError, Remark

#: Number of picture files per decoding task, and of pictures per call of the network.
BLOCK, BATCH = 4, 8

#: Bytes of decoded pictures per block, the unit that Ray moves.
BLOCK_BYTES: Final = 16 * 1024 * 1024

#: How often Ray retries a call whose actor was lost. Limited, because a picture may have killed it.
#: A lost node uses up these retries within seconds, before Ray knows that it is gone.
RETRIES: Final = 3

#: Number of rounds. After the first, lost pictures are retried one by one, so that a picture that
#: kills its actor affects no other.
ROUNDS: Final = 3

#: Timeout for a connection to the head of a cluster, in seconds.
CONNECT_S: Final = 10.0

#: Share of a core that a decoding or encoding task requests.
TASK_CPUS: Final = 0.5

#: Share of a core that a network without a GPU requests; see `networks`.
NETWORK_CPUS: Final = 0.25

#: Bytes of memory for each network without a GPU.
NETWORK_MEMORY: Final = 2 << 30

Row = dict[str, Any]


class _Decode:
    """A task: decodes the pictures of a block; on failure a row carries the error."""

    def __init__(self, work: Work) -> None:
        self._decoder = Decoder(work)

    def __call__(self, row: Row) -> Iterator[Row]:
        tasks: list[Task] = pickle.loads(row["tasks"])  # noqa: S301 - our own data
        for task in tasks:
            try:
                item, error = self._decoder(task), None
            except PictureError as raised:
                item, error = None, raised
            yield {"name": task.name, "item": pickle.dumps(item, 5), "error": pickle.dumps(error)}


class _Fill:
    """An actor: loads the network once and fills pictures."""

    def __init__(self, settings: Settings, work: Work, threads: int) -> None:
        from core.network import load_inpainter, settle_memory

        settle_memory()
        if threads:
            import torch

            torch.set_num_threads(threads)
        # Ray calls the actor from another thread, and each thread that computes gets its own OpenMP
        # threads. With more of them than cores, OpenMP puts all to sleep at every join, which costs
        # a quarter of the time. So the network is loaded in a thread that ends.
        with ThreadPoolExecutor(1) as loading:
            inpainter = loading.submit(load_inpainter, settings, work.region).result()
        self._filler = Filler(inpainter)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        items = [pickle.loads(data) for data in rows["item"]]  # noqa: S301
        errors = [pickle.loads(data) for data in rows["error"]]  # noqa: S301
        usable = [index for index, item in enumerate(items) if item is not None]
        results: Sequence[Any] = self._filler([items[index] for index in usable])
        filled: list[Any] = [None] * len(items)
        for index, result in zip(usable, results, strict=True):
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
    """A task: encodes and writes a result; passes on the name, and the error and the remarks."""

    def __init__(self, work: Work) -> None:
        self._encoder = Encoder(work)

    def __call__(self, row: Row) -> Row:
        error = pickle.loads(row["error"])  # noqa: S301
        item: Item | None
        item, filled = pickle.loads(row["item"])  # noqa: S301
        remarks: tuple[Remark, ...] = ()
        if item is not None:
            remarks = item.remarks
            try:
                self._encoder(item, filled)
            except PictureError as raised:
                error = raised
        return {"name": row["name"], "outcome": pickle.dumps((error, remarks))}


def run(
    tasks: Sequence[Task], work: Work, settings: Settings, address: str, workers: int, note: Note
) -> None:
    """Do all tasks on the cluster at `address`, or on a new one on this machine for 'local'.

    `workers` is the number of networks, 0 for one per GPU or, without GPUs, per core. Raises
    BulkRefused if Ray is missing or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # For a local cluster: do not lower the priority of its processes.
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
    """Refuse HOST:PORT where nothing listens: Ray would retry silently."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # 'local', 'auto', or an address that Ray refuses itself
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
    logging.getLogger("ray").setLevel(logging.ERROR)  # `note` reports progress
    context.target_max_block_size = BLOCK_BYTES
    # A failed block must not end the others; its pictures are reported below.
    context.max_errored_blocks = -1
    remaining = {task.name: task for task in tasks}
    for number in range(ROUNDS):
        alone = number > 0
        for row in _results(ray, list(remaining.values()), work, settings, workers, alone):
            if remaining.pop(row["name"], None) is not None:
                note(row["name"], *pickle.loads(row["outcome"]))  # noqa: S301
        if not remaining:
            break
    for name in remaining:
        error = PictureError("lost", f"its task or actor was lost in each of {ROUNDS} rounds")
        note(name, error, ())


def _results(
    ray: Any, tasks: Sequence[Task], work: Work, settings: Settings, workers: int, alone: bool
) -> Iterator[Row]:
    """Names and errors of finished pictures, as they finish; lost ones are missing."""
    # The current resources: in a later round there may be fewer.
    size, share = networks(ray.cluster_resources(), bool(settings.use_cuda), workers)
    most, batch = (1, 1) if alone else (BLOCK, BATCH)
    rows = [{"tasks": pickle.dumps(block)} for block in blocks(tasks, most)]
    with warnings.catch_warnings():
        # Ray has deprecated max_restarts but offers no replacement yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        results = (
            ray.data.from_items(rows, override_num_blocks=max(1, len(rows)))
            .flat_map(_Decode(work).__call__, num_cpus=TASK_CPUS)
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


def blocks(tasks: Sequence[Task], most: int) -> list[list[Task]]:
    """Tasks in blocks of `most`, but a row group of a Parquet file in one: it is read once."""
    made: list[list[Task]] = []
    last: tuple[str, int] | None = None
    for task in tasks:
        group = (task.row.file, task.row.group) if task.row else None
        if made and group == last and (len(made[-1]) < most or (group and most > 1)):
            made[-1].append(task)
        else:
            made.append([task])
        last = group
    return made


def networks(
    resources: dict[str, float], use_cuda: bool, workers: int
) -> tuple[int, dict[str, Any]]:
    """The number of actors, and what each requests: num_gpus or num_cpus, and its threads.

    Without a GPU there is one per core, as far as memory allows: a network with one thread does not
    wait for other threads when Ray's processes or decoding use its core.

    An actor requests only part of a core: if nodes are lost, all actors may move to the remaining
    ones, where decoding needs a place too.
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
    """An object array of bytes; a bytes array of numpy would drop trailing zeros."""
    items = list(values)
    column = np.empty(len(items), object)
    column[:] = items
    return column
