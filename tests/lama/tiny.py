"""Networks small enough for a test, and the golden data."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from lama.engine.engine import as_pixels
from lama.inference import engine_of
from lama.saicinpainting.training.modules.ffc import FFCResNetGenerator, GeneratorConfig
from lama.saicinpainting.training.trainers import InpaintingModel

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SAMPLES = [("blocks2-ngf16", i) for i in range(2)] + [("blocks9-ngf8", i) for i in range(4)]

_GENERATOR = {
    "kind": "ffc_resnet",
    "input_nc": 4,
    "output_nc": 3,
    "ngf": 8,
    "n_downsampling": 3,
    "n_blocks": 2,
    "add_out_act": "sigmoid",
    "init_conv_kwargs": {"ratio_gin": 0, "ratio_gout": 0, "enable_lfu": False},
    "downsample_conv_kwargs": {"ratio_gin": 0, "ratio_gout": 0, "enable_lfu": False},
    "resnet_conv_kwargs": {"ratio_gin": 0.75, "ratio_gout": 0.75, "enable_lfu": False},
}


def tiny_config(**changes: Any) -> dict[str, Any]:
    """A training config of 8 channels and 2 blocks; `changes` go into `generator`."""
    return {"run_title": "", "generator": {**copy.deepcopy(_GENERATOR), **changes}}


def write_config(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(tiny_config(**changes)))
    return path


def tiny_generator(**changes: Any) -> FFCResNetGenerator:
    torch.manual_seed(7)
    config = GeneratorConfig(**{"ngf": 8, "n_blocks": 2, **changes})
    return FFCResNetGenerator(config).eval().requires_grad_(False)


def tiny_state(**changes: Any) -> dict[str, Tensor]:
    return dict(tiny_generator(**changes).state_dict())


def tiny_model(**changes: Any) -> InpaintingModel:
    return InpaintingModel(tiny_generator(**changes)).eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 H×W×3 noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_mask(height: int, width: int) -> np.ndarray:
    """uint8 H×W with a hole in the middle, at least one pixel."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = 255
    return mask


def golden_sample(name: str, index: int) -> dict[str, np.ndarray]:
    """`image`, `mask`, `predicted`, `inpainted` of one reference sample."""
    with np.load(GOLDEN / name / "samples.npz") as samples:
        keys = ("image", "mask", "predicted", "inpainted")
        return {key: samples[f"{key}_{index}"] for key in keys}


def as_batch(*pairs: tuple[np.ndarray, np.ndarray]) -> dict[str, Tensor]:
    """(picture, mask) pairs of one size as the tensors that the network takes."""
    images = np.stack([image for image, _ in pairs])
    holes = np.stack([mask > 0 for _, mask in pairs])
    return {
        # B, H, W, 3 -> B, 3, H, W
        "image": torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
        "mask": torch.from_numpy(holes).unsqueeze(1).float(),
    }


def as_picture(tensor: Tensor) -> np.ndarray:
    """3×H×W to H×W×3."""
    return tensor.permute(1, 2, 0).numpy()


def engine_output(
    model: InpaintingModel, image: np.ndarray, mask: np.ndarray, dtype: torch.dtype, device="cpu"
) -> np.ndarray:
    """What the engine paints, inside the hole and outside: H×W×3 float32 in [0, 1]."""
    engine = engine_of(model, device, dtype)
    pixels = as_pixels(image[None], (mask > 0)[None]).to(device)
    with torch.no_grad():
        return torch.sigmoid(engine.logits(pixels).float())[0].cpu().numpy()


def decibels(one: np.ndarray, other: np.ndarray, hole: np.ndarray) -> float:
    """PSNR of two float pictures in [0, 1] over the hole."""
    return float(-10 * np.log10(np.mean((one[hole] - other[hole]) ** 2) + 1e-20))


class Composite(nn.Module):
    """The exported form: called as (image, mask), the composite inside."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        predicted = self.generator(torch.cat([image * (1 - mask), mask], dim=1))
        return mask * predicted + (1 - mask) * image


def save_script(path: Path, module: nn.Module, trace: bool) -> Path:
    with warnings.catch_warnings():
        # torch calls TorchScript deprecated; published files remain.
        warnings.simplefilter("ignore")
        if trace:
            made = torch.jit.trace(module, (torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16)))
        else:
            made = torch.jit.script(module)
        made.save(str(path))
    return path
