"""The loop of a training run: takes batches, writes checkpoints and lines of progress."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lama.clock import clock
from lama.saicinpainting.training.trainers.errors import CheckpointError
from lama.training.data.batches import batches, make_batch, plan_batch
from lama.training.data.pictures import Pictures, picture_files
from lama.training.snapshots import write_atomically
from lama.training.training import Trainer
from lama.training.validation import Validation, hold_out


@dataclass(frozen=True)
class Budget:
    """The length of a run: minutes of training, over all resumptions, or steps."""

    minutes: float | None = None
    steps: int | None = None

    def progress(self, step: int, elapsed_s: float) -> float:
        """The share of the budget that is spent; at 1 the run is over."""
        parts = [0.0]
        if self.minutes is not None:
            parts.append(elapsed_s / (60 * self.minutes) if self.minutes > 0 else 1.0)
        if self.steps is not None:
            parts.append(step / self.steps if self.steps > 0 else 1.0)
        return min(1.0, max(parts))


def train(
    trainer: Trainer,
    folder: str | Path,
    out: Path,
    budget: Budget,
    stop: Callable[[], bool] = lambda: False,
    save_every_s: float = 300,
    report_every_s: float = 10,
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Trains until the budget is spent or `stop()` is true; finishes a step that has begun.

    Resumes from `out`/models/last.ckpt if it is there. Writes that file and best.ckpt beside it
    every `save_every_s` seconds, and at the end.
    """
    files, held = hold_out(picture_files(folder))
    recipe = trainer.settings.recipe
    side = trainer.settings.validation_side
    validation = Validation(held, side, trainer.device, recipe.crops.scales)
    save = partial(_save, trainer, validation, out / "models", say)
    last = out / "models" / "last.ckpt"
    if last.exists():
        _resume(trainer, last)
        say(
            f"goes on at step {trainer.step}, {trainer.elapsed_s / 60:.1f} min done, seed "
            f"{trainer.seed}: {last}"
        )
    say(f"{len(files)} pictures to learn from, {len(held)} held out; {recipe}")
    pictures = Pictures(files, recipe.crops)
    if trainer.step == 0:
        first = plan_batch(pictures, recipe, trainer.seed, 0)
        trainer.begin(*make_batch(first, trainer.device))
        save()
    report = _Report(say)
    source = batches(
        pictures,
        recipe,
        trainer.seed,
        trainer.step,
        trainer.device,
        workers,
        processes=trainer.device.type != "cpu",
    )
    saved = reported = time.monotonic()
    try:
        while True:
            progress = budget.progress(trainer.step, trainer.elapsed_s)
            if progress >= 1 or stop():
                break
            start = time.monotonic()
            images, masks = next(source)
            report.add(len(images), trainer.train_step(images, masks, progress))
            now = time.monotonic()
            trainer.elapsed_s += now - start
            if now - reported >= report_every_s:
                report.line(trainer, budget, now - reported)
                reported = now
            if now - saved >= save_every_s:
                save()
                # The time of saving counts neither as training nor in the report.
                reported += time.monotonic() - now
                saved = time.monotonic()
    finally:
        source.close()  # type: ignore[attr-defined]
    save()


def _save(
    trainer: Trainer, validation: Validation, folder: Path, say: Callable[[str], None]
) -> None:
    """Writes last.ckpt and, if no earlier weights were better, best.ckpt."""
    last, best = folder / "last.ckpt", folder / "best.ckpt"
    score = validation.psnr(trainer.average)
    if score > trainer.best or not best.exists():
        trainer.best = max(score, trainer.best)
        write_atomically(best, trainer.best_snapshot())
    write_atomically(last, trainer.snapshot())
    say(f"step {trainer.step}: {score:.2f} dB held out, best {trainer.best:.2f}; saved {last}")


def _resume(trainer: Trainer, path: Path) -> None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged pickle can fail in any way.
        raise CheckpointError(f"{path}: damaged; move it away to begin anew") from error
    try:
        trainer.resume(content)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: of a run with another generator, or of another program; "
            "take its config, or another --out"
        ) from error


class _Report:
    """Prints the means since its last line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._begin()

    def _begin(self) -> None:
        self._pictures = 0
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, pictures: int, losses: dict[str, Tensor]) -> None:
        self._pictures += pictures
        for name, value in losses.items():
            self._values[name].append(value)

    def line(self, trainer: Trainer, budget: Budget, seconds: float) -> None:
        progress = budget.progress(trainer.step, trainer.elapsed_s)
        left = trainer.elapsed_s * (1 - progress) / progress if progress else 0.0
        means = {name: float(torch.stack(values).mean()) for name, values in self._values.items()}
        terms = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        self._say(
            f"step {trainer.step}  {self._pictures / max(seconds, 1e-9):.1f} img/s  {terms}  "
            f"{100 * progress:.1f} %  {clock(left)} left"
        )
        self._begin()
