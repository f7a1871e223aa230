"""One run: checks the request, finds the pictures, processes and reports them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bulk import local, on_ray
from bulk.errors import BulkRefused
from bulk.parquet import is_parquet
from bulk.report import Counts, Failures, Progress
from bulk.stages import WITHOUT_HOLE, Decoder, Encoder, Filler, Work
from bulk.storage import Folder, Remote, Store, is_url, local_path, open_store
from bulk.tasks import MaskNames, Plan, find, read_boxes
from core.config import Settings
from core.network import load_inpainter
from core.pictures.errors import PictureError
from lama.clock import clock

#: Default of MAX_IMAGE_PIXELS here, larger than the worker's because a page may be a long strip.
MOST_PIXELS: Final = 64 * 1024 * 1024

#: The file that is locked where a folder cannot be.
LOCK: Final = ".bulk-lock"

#: Number of pictures from which --dry-run estimates.
SAMPLE: Final = 8


@dataclass(frozen=True, slots=True)
class Request:
    """The options of the command line. Places are paths or URLs, '' if not given.

    `form` is Pillow's name of the results' format, '' for the pictures' own. `ray` is None without
    Ray, 'local' for a new cluster on this machine, else a cluster's address.
    """

    source: str
    output: str
    masks: str = ""
    boxes: str = ""
    form: str = ""
    ray: str | None = None
    workers: int = 0


def prepare(request: Request, settings: Settings) -> tuple[Work, Plan]:
    """Check a request and find its pictures; raises BulkRefused."""
    _check_apart(request)
    source, single = open_store(request.source, "INPUT")
    names = [single] if single else list(source.names())
    if not single:
        _check_links(request, source)
    if not (request.masks or request.boxes or any(map(is_parquet, names))):
        raise BulkRefused(
            "--masks or --boxes is needed: only Parquet files may contain masks or boxes"
        )
    if request.boxes and not is_url(request.source) and not is_url(request.boxes):
        names = [name for name in names if not _is_same(source, name, request.boxes)]
    mask_store: Store | None = None
    masks: MaskNames | str | None = None
    if request.masks:
        mask_store, single_mask = open_store(request.masks, "--masks")
        masks = single_mask or MaskNames(mask_store.names(), _folders_of(mask_store))
    boxes = None
    if request.boxes:
        box_store, file = open_store(request.boxes, "--boxes")
        if file is None:
            raise BulkRefused(f"--boxes: {request.boxes} is a folder, must be a file")
        try:
            boxes = read_boxes(box_store.read(file), request.boxes)
        except OSError as error:
            raise BulkRefused(f"--boxes: {request.boxes} cannot be read: {error}") from error
    output = _output(request.output)
    configured = settings.model_fields_set
    work = Work(
        source=source,
        masks=mask_store,
        output=output,
        form=request.form,
        most_pixels=settings.max_image_pixels if "max_image_pixels" in configured else MOST_PIXELS,
        threshold=settings.mask_threshold,
        region=settings.inpaint_region if "inpaint_region" in configured else "mask",
    )
    there = set(output.filled_names()) if output.exists() else set()
    marks = output.below(WITHOUT_HOLE)
    marked = set(marks.names()) if marks.exists() else set()
    plan = find(source, names, there, marked, request.form, masks, boxes)
    if not (plan.tasks or plan.refused or plan.there):
        raise BulkRefused(f"INPUT: there are no pictures in {request.source}")
    return work, plan


def run(request: Request, settings: Settings) -> Counts:
    """Process the pictures that have no result yet; returns the counts."""
    work, plan = prepare(request, settings)
    with _alone(work.output):  # before Failures, which truncates the file
        counts = Counts(len(plan.tasks) + len(plan.refused), plan.there)
        progress = Progress(counts, Failures(work.output))
        stopped = "stopped by an error"
        try:
            for name, error in plan.refused:
                progress(name, error)
            if plan.tasks and request.ray is not None:
                on_ray.run(plan.tasks, work, settings, request.ray, request.workers, progress)
            elif plan.tasks:
                filler = Filler(load_inpainter(settings, work.region))
                local.Line(Decoder(work), filler, Encoder(work), progress).run(plan.tasks)
            stopped = ""
        except KeyboardInterrupt:
            stopped = "interrupted"
            raise
        finally:
            progress.finish(stopped)
            if isinstance(work.output, Folder):
                work.output.remove_parts()
    return counts


def estimate(request: Request, settings: Settings) -> dict[str, Any]:
    """Counts, and estimates of time and size from a few pictures whose results are discarded."""
    work, plan = prepare(request, settings)
    counts: dict[str, Any] = {
        "todo": len(plan.tasks),
        "there": plan.there,
        "refused": {name: str(error) for name, error in plan.refused},
    }
    step = max(1, len(plan.tasks) // SAMPLE)
    sample = plan.tasks[::step][:SAMPLE]
    if not sample:
        return counts
    decoder, encoder = Decoder(work), Encoder(work)
    filler = Filler(load_inpainter(settings, work.region))
    written, failed = 0, 0
    began = time.perf_counter()
    for task in sample:
        try:
            item = decoder(task)
            (filled,) = filler([item])
            if isinstance(filled, PictureError):
                raise filled
            written += len(encoder.encoded(item, filled)[1])
        except PictureError:
            failed += 1
    seconds = (time.perf_counter() - began) / len(sample)
    return counts | {
        "sample": len(sample),
        "sample_failed": failed,
        "seconds_a_picture": seconds,
        "bytes": written * len(plan.tasks) // len(sample),
        "time_on_this_machine": clock(seconds * len(plan.tasks)),
        "device": filler.describe(),
    }


def _check_apart(request: Request) -> None:
    """Refuse nested places: results or masks would be taken for pictures."""
    places = {"INPUT": request.source, "OUTPUT": request.output, "--masks": request.masks}
    given = [(name, at) for name, at in places.items() if at or name != "--masks"]
    paths = [(name, local_path(at, name)) for name, at in given if not is_url(at)]
    for name, path in paths:
        for other, around in paths:
            if name != other and path.is_relative_to(around):
                raise BulkRefused(
                    f"{name} ({path}) is inside {other} ({around}): results or masks would be "
                    "taken for pictures; use separate folders"
                )


def _check_links(request: Request, source: Store) -> None:
    """Refuse links in INPUT to OUTPUT or the masks, or to a folder around them."""
    if not isinstance(source, Folder):
        return
    places = {"OUTPUT": request.output, "--masks": request.masks}
    for path in source.links:
        link, target = path.relative_to(source.root).as_posix(), path.resolve()
        for name, where in places.items():
            if not where or is_url(where):
                continue
            place = local_path(where, name)
            if place.is_relative_to(target) or target.is_relative_to(place):
                raise BulkRefused(
                    f"the link {link} in INPUT leads to {target}, where {name} is: results or "
                    "masks would be taken for pictures; remove the link"
                )


def _is_same(source: Store, name: str, where: str) -> bool:
    return isinstance(source, Folder) and (source.root / name).resolve() == local_path(
        where, "--boxes"
    )


def _folders_of(store: Store) -> Callable[[str], bool]:
    """Whether a name is a folder of a store; object stores have none."""
    if isinstance(store, Folder):
        root = store.root
        return lambda name: (root / name).is_dir()
    return lambda name: False


def _output(where: str) -> Store:
    if is_url(where):
        return Remote(where)
    path = local_path(where, "OUTPUT")
    if path.exists() and not path.is_dir():
        raise BulkRefused(f"OUTPUT: {where} is a file, must be a folder")
    return Folder(path)


@contextlib.contextmanager
def _alone(output: Store) -> Iterator[None]:
    """Create a folder, lock it against other runs, and remove partial files of killed runs.

    Raises BulkRefused if another run has the lock or the folder cannot be created.
    """
    if not isinstance(output, Folder):
        yield
        return
    try:
        output.root.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(output.root)
    except BlockingIOError:
        raise BulkRefused(f"another run is writing to {Path(output.root)}") from None
    except OSError as error:
        raise BulkRefused(f"OUTPUT cannot be written to: {error}") from error
    try:
        output.remove_parts()
        yield
    finally:
        os.close(descriptor)


def _locked(folder: Path) -> int:
    """A descriptor that locks a folder; raises BlockingIOError if another run has locked it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # NFS locks only files that are open for writing
        os.close(descriptor)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks
        pass
    return descriptor
