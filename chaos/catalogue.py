"""A catalogue, killed half-way and finished: python -m chaos.catalogue --pictures 1000

`bulk` runs over pages of many sizes in a process of its own, which is killed (SIGKILL) with all
that came of it once half of the results are there; then it runs again. In the end there must be
every result, whole, none done twice, and each what `batch_inference` makes of the same windows in
this process. In half precision each pixel may be off by one level; in float32 (USE_FP16=0) one in
10,000 may: which way of the Fourier transform is faster at a size is measured by each process, and
where two come to different ends, sums differ in their last bits. The network is the configured one
(LAMA_CONFIG_PATH, LAMA_CHECKPOINT_PATH). Exits with 1 on any deviation.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from PIL import Image

from benchmarks.report import Report
from bulk.on_ray import networks
from bulk.storage import PART
from chaos.pages import Page, Picture, draw
from chaos.programs import kill_marked
from chaos.results import Account, Fill, Results
from core.config import PROJECT_ROOT, load_settings
from core.network import settle_memory
from harness.process import Process, python
from lama.engine.precision import decide
from lama.inference import batch_inference, load_lama_model

#: Name of the variable by which the processes of a run are found.
MARK: Final = "CHAOS_CATALOGUE"

#: Share of the pixels in the holes that may differ in float32.
FEW: Final = 1e-4

#: Longest wait for the next result, in seconds; on Ray the first needs a cluster and an actor.
PATIENCE_S: Final = 240.0


class Catalogue:
    """Pages in a folder, and the runs over them."""

    def __init__(self, root: Path, count: int, seed: int, boxes: bool, ray: bool) -> None:
        """Draw the pages; holes come from a file of boxes, or from masks."""
        self._count, self._seed = count, seed
        clean = root / "clean"
        clean.mkdir()
        self.results = Results(clean, count)
        self._log = root / "log"
        self._mark = secrets.token_hex(8)
        # A cluster that is killed leaves its folder behind.
        self._ray_folder = Path(tempfile.mkdtemp(prefix="ray")) if ray else None
        pages, masks, lines = root / "pages", root / "masks", []
        for page in self.pages():
            _save(pages / page.name, page.image)
            if boxes:
                lines.append(json.dumps({"image": page.name, "boxes": page.boxes}))
            else:
                _save(masks / page.name, page.mask)
        (root / "boxes.jsonl").write_text("\n".join(lines))
        holes = ["--boxes", str(root / "boxes.jsonl")] if boxes else ["--masks", str(masks)]
        arguments = [pages, clean, *holes, *["--ray"] * ray, "--json"]
        self._command = python(PROJECT_ROOT / "worker.py", "bulk", *arguments)
        self._environment = {
            **os.environ,
            MARK: self._mark,
            "INPAINT_REGION": "mask",
            "REFINE": "0",
            **({} if self._ray_folder is None else {"RAY_TMPDIR": str(self._ray_folder)}),
        }

    def pages(self) -> Iterator[Page]:
        """All pages; each call draws them again."""
        return (draw(number, self._seed) for number in range(self._count))

    def run_and_kill(self) -> None:
        """Kill a run when half of the results are there."""
        began = time.monotonic()
        run = Process(self._command, self._environment, self._log)
        run.start()
        try:
            self._wait_for_half(run)
            if not run.is_running:
                self._wrong_with_log(f"the run ended with {run.poll()} before it was killed")
        finally:
            self.results.account.killed = kill_marked(MARK, self._mark)
            run.wait()
        self.results.account.seconds.append(time.monotonic() - began)
        self.results.check_killed()
        # A kill seldom comes while a file is written: here it always does.
        folder = self.results.folder / "0"
        folder.mkdir(exist_ok=True)
        (folder / f"{PART}of-the-run-that-was-killed").write_bytes(b"\x89PNG")

    def finish(self) -> None:
        """Run again, to the end."""
        copied = self.results.copied()
        files = self.results.files()
        before = {name: files[name] for name in files if name not in copied}
        self.results.account.copied_again = len(files) - len(before)
        began = time.monotonic()
        try:
            with self._log.open("ab") as log:
                run = subprocess.run(
                    self._command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    check=False,
                )
        finally:
            kill_marked(MARK, self._mark)
        self.results.account.seconds.append(time.monotonic() - began)
        if run.returncode == 0:
            self.results.check_second(before, json.loads(run.stdout))
        else:
            self._wrong_with_log(f"the second run ended with {run.returncode}")

    def close(self) -> None:
        """Kill what is left of the runs, and remove their folders."""
        kill_marked(MARK, self._mark)
        if self._ray_folder is not None:
            shutil.rmtree(self._ray_folder, ignore_errors=True)

    def _wait_for_half(self, run: Process) -> None:
        count, deadline = 0, time.monotonic() + PATIENCE_S
        while count < self._count / 2 and run.is_running:
            if (now := len(self.results.files())) > count:
                count, deadline = now, time.monotonic() + PATIENCE_S
            if time.monotonic() > deadline:
                self._wrong_with_log(f"there was no new result for {PATIENCE_S:g} s")
                return
            time.sleep(0.02)

    def _wrong_with_log(self, what: str) -> None:
        self.results.account.wrong.append(f"{what}: {self._log.read_text()[-2000:]}")


def configured(ray: bool) -> tuple[Fill, float]:
    """The configured network, and in what share of pixels two that are loaded may differ."""
    settings = load_settings()
    device = "cuda" if settings.use_cuda and torch.cuda.is_available() else "cpu"
    if ray and device == "cpu":
        # With more threads sums are taken in another order.
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(networks({"CPU": cores}, False, 0)[1]["threads"])
    model, config = load_lama_model(
        settings.lama_config_path, settings.lama_checkpoint_path, device
    )

    def fill(images: Sequence[Picture], masks: Sequence[Picture]) -> list[Picture]:
        return batch_inference(images, masks, model, config, device, settings.use_fp16)

    exact = decide(device, settings.use_fp16).dtype == torch.float32
    return fill, FEW if exact else 1.0


def main() -> int:
    """Run, kill, run, compare and print the account; 1 if anything deviates."""
    parser = argparse.ArgumentParser(prog="python -m chaos.catalogue", description=__doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--boxes", action="store_true", help="holes from boxes, not from masks")
    parser.add_argument("--ray", action="store_true", help="on Ray, on this machine")
    parser.add_argument("--json", type=Path, help="a file that the account is added to")
    options = parser.parse_args()
    settle_memory()
    with tempfile.TemporaryDirectory(prefix="catalogue") as folder:
        catalogue = Catalogue(
            Path(folder), options.pictures, options.seed, options.boxes, options.ray
        )
        try:
            catalogue.run_and_kill()
            catalogue.finish()
            catalogue.results.compare(catalogue.pages(), *configured(options.ray))
        finally:
            catalogue.close()
    account = catalogue.results.account
    _print(account)
    if options.json:
        report = Report("catalogue", ("command",), options.json)
        report.add(**asdict(account))
        report.write()
    return min(len(account.wrong), 1)


def _print(account: Account) -> None:
    for name in account.__slots__:
        value = getattr(account, name)
        if name == "seconds":
            value = " + ".join(f"{one:.0f}" for one in value)
        elif name == "wrong":
            value = len(value)
        print(f"{name.replace('_', ' '):24}{value}")
    for deviation in account.wrong[:40]:
        print(f"WRONG: {deviation}")


def _save(path: Path, array: Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, compress_level=1)


if __name__ == "__main__":
    sys.exit(main())
