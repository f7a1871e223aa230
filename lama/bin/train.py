"""Trains the generator on a folder of pictures: `python -m lama.bin.train CONFIG IMAGES`.

    python -m lama.bin.train lama-fourier/config.yaml pictures/ --out out/training --minutes 480
    python -m lama.bin.train … --from lama-fourier/models/best.ckpt losses.ssim.weight=1000

Writes OUT/config.yaml, OUT/models/best.ckpt and OUT/models/last.ckpt, the layout that
`load_lama_model` and the worker's settings expect. Started again with the same OUT, it continues
after any interruption.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from omegaconf import OmegaConf

from lama.inference import usable_device
from lama.saicinpainting.training.trainers.config import load_train_config
from lama.saicinpainting.training.trainers.errors import CheckpointError
from lama.training.loop import Budget, train
from lama.training.settings import left_out, override, read_settings
from lama.training.training import Trainer, training_dtype


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lama.bin.train",
        description="Trains the generator that CONFIG describes on the pictures in IMAGES.",
    )
    parser.add_argument("config", help="a training config, e.g. lama-fourier/config.yaml")
    parser.add_argument("images", help="folder of pictures; subfolders count")
    parser.add_argument("overrides", nargs="*", help="settings of the config, e.g. data.drawn=0.2")
    parser.add_argument("--out", default="out/training", help="folder to write to (%(default)s)")
    parser.add_argument("--from", dest="start", help="checkpoint whose generator to begin with")
    parser.add_argument(
        "--minutes",
        type=float,
        help="minutes of training, resumptions included (60, without --steps)",
    )
    parser.add_argument("--steps", type=int, help="steps of training, resumptions included")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (%(default)s)")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda or cuda:1 (here %(default)s)",
    )
    parser.add_argument("--threads", type=int, help="processor threads for the network")
    parser.add_argument("--float32", action="store_true", help="no bfloat16")
    parser.add_argument(
        "--save-every", type=float, default=5, help="minutes between two checkpoints (%(default)s)"
    )
    parsed = parser.parse_intermixed_args(given)
    if parsed.minutes is None and parsed.steps is None:
        parsed.minutes = 60.0
    return parsed


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        device = usable_device(options.device)
        if device.type == "cuda":
            # There are few shapes, and each is used many times.
            torch.backends.cudnn.benchmark = True
        config = load_train_config(options.config)
        override(config, options.overrides)
        dtype = training_dtype(device, not options.float32)
        settings = read_settings(config, device, given=bool(options.start))
        trainer = Trainer(config, settings, device, options.seed, dtype)
        if options.start:
            trainer.start_from(options.start)
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, out / "config.yaml")
        _say(f"{device}, {str(dtype).removeprefix('torch.')}, seed {options.seed}")
        for name in left_out(config):
            _say(f"losses.{name} is not implemented and is left out")
        with _asked_to_stop() as asked:
            train(
                trainer,
                options.images,
                out,
                Budget(options.minutes, options.steps),
                stop=lambda: bool(asked),
                save_every_s=60 * options.save_every,
                workers=max(1, min(8, (os.cpu_count() or 2) // 2)),
                say=_say,
            )
    except (CheckpointError, ValueError, FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError:
        print("error: out of GPU memory; go on with a lower data.batch_size=…", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A context that notes SIGINT and SIGTERM in its list: the step is finished and saved."""
    asked: list[int] = []
    before = {
        number: signal.signal(number, lambda received, frame: asked.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
