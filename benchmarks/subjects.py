"""The networks, pictures and masks that benchmarks use."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from core.config import PROJECT_ROOT
from harness.samples import read_sample, resized, sample_files
from lama.saicinpainting.training.modules.ffc import FFCResNetGenerator, big_lama, lama_fourier
from lama.saicinpainting.training.trainers import InpaintingModel, load_checkpoint
from lama.saicinpainting.training.trainers.config import load_train_config

NETWORKS = ("lama-fourier", "big-lama", "shipped")
MASKS = ("blocks", "text")

Picture = npt.NDArray[np.uint8]
Hole = npt.NDArray[np.bool_]


def model(name: str) -> InpaintingModel:
    """A published layout at full size with random weights, or the weights that come along.

    Random weights get batch norms that fit them, from a run over a sample picture: activations
    then are as large as in a trained network, and so are rounding errors.
    """
    if name == "shipped":
        folder = PROJECT_ROOT / "lama-fourier"
        config = load_train_config(folder / "config.yaml")
        return load_checkpoint(config, folder / "models" / "best.ckpt")
    torch.manual_seed(0)
    generator = {"lama-fourier": lama_fourier, "big-lama": big_lama}[name]()
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean over all batches, which is one
    masked = masked_tensor(pictures(1, 256, 256), holes("text", 1, 256, 256))
    with torch.no_grad():
        generator.train()(masked.contiguous(memory_format=torch.channels_last))
    return InpaintingModel(generator.eval().requires_grad_(False))


def pictures(count: int, height: int, width: int) -> Picture:
    """Sample pictures of one size: count×H×W×3 RGB."""
    files = sample_files()
    samples = [read_sample(files[number % len(files)]) for number in range(count)]
    return np.stack([resized(sample, height, width)[..., ::-1] for sample in samples])


def holes(kind: str, count: int, height: int, width: int) -> Hole:
    """count×H×W.

    `blocks`: squares of 32 pixels, a quarter of the picture, everywhere: all of the decoder is
    needed. `text`: a headline and lines below it, 6 % of the picture.
    """
    hole = np.zeros((height, width), bool)
    if kind == "blocks":
        rows, columns = np.arange(height) // 32 % 2 == 1, np.arange(width) // 32 % 2 == 1
        hole |= rows[:, None] & columns
    else:
        for top, left, tall, wide in [(8, 20, 5, 60), (60, 10, 3, 40), (65, 10, 3, 45)]:
            rows = slice(top * height // 100, (top + tall) * height // 100)
            hole[rows, left * width // 100 : (left + wide) * width // 100] = True
    return np.stack([hole] * count)


def masked_tensor(images: Picture, hole: Hole) -> torch.Tensor:
    """What the reference network takes: B×4×H×W float32."""
    image = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mask = torch.from_numpy(hole).unsqueeze(1).float()
    return torch.cat([image * (1 - mask), mask], dim=1)


def operations(generator: FFCResNetGenerator, batch: int, height: int, width: int) -> float:
    """Floating-point operations of all convolutions, a multiply-add counted as two."""
    with torch.device("meta"):
        copy = FFCResNetGenerator(dataclasses.replace(generator.config)).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            copy(torch.empty(batch, 4, height, width))
    return float(counter.get_total_flops())


def decibels(
    actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], hole: Hole
) -> float:
    """PSNR over the hole of pictures in [0, 1]; infinite where they are alike."""
    error = float(np.mean((actual[hole].astype(np.float64) - expected[hole]) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))
