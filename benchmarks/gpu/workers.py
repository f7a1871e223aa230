"""The worker against its network alone, with one and two processes on one GPU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml

from benchmarks import subjects
from benchmarks.gpu.scale import Row, Scale, wait
from benchmarks.gpu.watched import VARIABLE, middle, read, stillness
from benchmarks.layouts import layouts
from benchmarks.traffic import Consumer, Traffic
from core.config import PROJECT_ROOT, load_settings
from core.keys import Kind
from core.pixels import shm
from harness.networks import VARIABLE as NETWORK
from harness.redis_server import RedisServer
from lama.engine.engine import as_pixels
from lama.inpainter import Inpainter

#: Results and batches at either end of a run that are left out.
ENDS: Final = 8

#: Bytes of shared memory that a job needs: picture, mask and result, twice for safety.
_JOB_BYTES: Final = 2 * 7 * 1024 * 1024

#: The pictures of a batch.
BATCH: Final = 4


def rates(scale: Scale) -> Iterator[Row]:
    """Jobs a second of the worker and of the network alone, and the device's gaps."""
    page = layouts(Kind.SHORT, 4)[3].prepared
    pictures = {Kind.SHORT: (page.image, page.mask)}
    jobs = min(scale.jobs, shm.free_bytes() // _JOB_BYTES)
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer() as server,
        Traffic(server.url, pictures) as traffic,
    ):
        for name in scale.networks:
            files = _files(name, Path(folder))
            alone = _alone(files, page.image, page.mask, scale)
            for count in scale.workers:
                with ExitStack() as stack:
                    notes = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    environment = {**files, NETWORK: "lama", VARIABLE: notes}
                    consumer = Consumer(server.url, "benchmarks.gpu.watched", count, **environment)
                    stack.enter_context(consumer)
                    _get_ready(traffic, consumer, count, scale)
                    for _ in range(max(1, scale.rounds // 2)):
                        best = alone()
                        row = _run(traffic, consumer, notes, jobs, count)
                        share = row["jobs/s"] / best
                        about = {"network": name, "workers": count, "alone/s": best}
                        yield {**about, "of alone": share, **row}


def _get_ready(traffic: Traffic, consumer: Consumer, count: int, scale: Scale) -> None:
    """Until all workers are at full speed: they record graphs at first, while they serve."""
    traffic.run(consumer, Kind.SHORT, min(scale.jobs, BATCH * count))
    ends = time.perf_counter() + scale.ready_s
    while time.perf_counter() < ends:
        traffic.run(consumer, Kind.SHORT, 5 * BATCH * count)


def _run(traffic: Traffic, consumer: Consumer, notes: Path, jobs: int, count: int) -> Row:
    before = len(read(notes))
    made = traffic.make(Kind.SHORT, jobs)
    began = traffic.push(consumer, Kind.SHORT, made)
    arrivals = sorted(traffic.arrivals(made).values())
    traffic.take(made)
    if jobs > 4 * ENDS:
        rate = (jobs - 2 * ENDS) / (arrivals[-ENDS - 1] - arrivals[ENDS - 1])
    else:
        rate = jobs / (arrivals[-1] - began)
    # With two workers the gaps of one are the other's batches.
    gaps = stillness(middle(read(notes)[before:], ENDS)) if count == 1 else {}
    return {"jobs/s": rate, "jobs": jobs, **gaps}


def _alone(
    files: dict[str, str], image: np.ndarray, mask: np.ndarray, scale: Scale
) -> Callable[[], float]:
    """Pictures a second that are on the device already, and stay there: what no worker can beat."""
    settings = load_settings()
    inpainter = Inpainter(
        files["LAMA_CONFIG_PATH"],
        files["LAMA_CHECKPOINT_PATH"],
        use_cuda=bool(settings.use_cuda),
        use_fp16=settings.use_fp16,
    )
    engine = inpainter.engine
    batch, batches = (BATCH, 30) if scale.device == "cuda" else (1, 1)
    given = np.stack([image] * batch), np.stack([mask > 0] * batch)
    pixels = as_pixels(*given).to(inpainter.device)
    engine.prepare(batch, *mask.shape)

    @torch.no_grad()
    def rate() -> float:
        began = time.perf_counter()
        for _ in range(batches):
            if scale.device == "cuda":
                engine.paint(pixels)
            else:
                engine.fill(*given)
        wait(scale.device)
        return batch * batches / (time.perf_counter() - began)

    return rate


def _files(name: str, folder: Path) -> dict[str, str]:
    """The settings that name a network's files; random weights are written to `folder`."""
    config = PROJECT_ROOT / "lama-fourier/config.yaml"
    if name == "shipped":
        weights = PROJECT_ROOT / "lama-fourier/models/best.ckpt"
    else:
        generator = subjects.model(name).generator
        content: Any = yaml.safe_load(config.read_text())
        content["generator"]["ngf"] = generator.config.ngf
        content["generator"]["n_blocks"] = generator.config.n_blocks
        config, weights = folder / f"{name}.yaml", folder / f"{name}.ckpt"
        config.write_text(yaml.safe_dump(content))
        state = {f"generator.{key}": value for key, value in generator.state_dict().items()}
        torch.save({"state_dict": state}, weights)
    return {"LAMA_CONFIG_PATH": str(config), "LAMA_CHECKPOINT_PATH": str(weights)}
