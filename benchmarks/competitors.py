"""Ways to run one network, all from the same bytes to the same bytes."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.subjects import Hole, Picture, masked_tensor
from lama.engine.engine import as_pixels
from lama.inference import engine_of
from lama.saicinpainting.training.modules.precision import exact_float32, half_dtype
from lama.saicinpainting.training.trainers import InpaintingModel
from lama.training.training import keep_fourier_exact

Floats = npt.NDArray[np.float32]


class Competitor:
    """Takes float32 tensors B×4×H×W on the device, gives tensors or arrays B×3×H×W in [0, 1]."""

    def __init__(self, forward: Callable[[Tensor], Any], device: str) -> None:
        self._forward, self._device = forward, device

    @torch.no_grad()
    def predict(self, images: Picture, hole: Hole) -> Floats:
        """What the network paints, B×H×W×3 in [0, 1]."""
        found = self._forward(masked_tensor(images, hole).to(self._device))
        array: Floats = np.asarray(found.cpu() if isinstance(found, Tensor) else found)
        # B, 3, H, W -> B, H, W, 3
        return array.transpose(0, 2, 3, 1)

    def fill(self, images: Picture, hole: Hole) -> object:
        """From bytes to bytes: what is timed on a CPU."""
        painted = self.predict(images, hole)
        fills = np.rint(painted * 255).astype(np.uint8)
        return np.where(hole[..., None], fills, images)

    @torch.no_grad()
    def fill_on_device(self, pixels: Tensor) -> object:
        """The same where the bytes are on the device already: what is timed on a GPU.

        `pixels` are what `as_pixels` makes.
        """
        # B, H, W, 4 -> B, 4, H, W
        found = self._forward(pixels.permute(0, 3, 1, 2).float() / 255)
        fills = (found * 255).round_().to(torch.uint8).permute(0, 2, 3, 1)
        return torch.where(pixels[..., 3:] > 0, fills, pixels[..., :3])


class Engine(Competitor):
    """This project's engine."""

    def __init__(self, model: InpaintingModel, device: str, dtype: torch.dtype) -> None:
        self._engine = engine_of(model, device, dtype)
        self._device = device

    @torch.no_grad()
    def predict(self, images: Picture, hole: Hole) -> Floats:
        pixels = as_pixels(images, hole).to(self._device)
        logits = [self._engine.logits(one).float() for one in torch.split(pixels, 1)]
        return torch.sigmoid(torch.cat(logits)).cpu().numpy()

    def fill(self, images: Picture, hole: Hole) -> object:
        return self._engine.fill(images, hole)

    @torch.no_grad()
    def fill_on_device(self, pixels: Tensor) -> object:
        self._engine.prepare(*pixels.shape[:3])
        return self._engine.paint(pixels)


Maker = Callable[[InpaintingModel, Tensor], Callable[[Tensor], Any]]


def make(name: str, model: InpaintingModel, example: Tensor, device: str) -> Competitor:
    """Raises ImportError where its package is missing."""
    if name.startswith("engine"):
        half = half_dtype(device)
        return Engine(model, device, torch.float32 if name == "engine float32" else half)
    return Competitor(MAKERS[name](model, example.to(device)), device)


def _reference(model: InpaintingModel, example: Tensor) -> Callable[[Tensor], Tensor]:
    """As it was published: PyTorch, eager, float32, in the default layout."""
    return model.generator


def _exactly(model: InpaintingModel, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Without TF32, whose mantissa has 10 bits, and which torch's convolutions take on a GPU."""

    def run(x: Tensor) -> Tensor:
        with exact_float32():
            found: Tensor = model.generator(x)
        return found

    return run


def _autocast(model: InpaintingModel, example: Tensor) -> Callable[[Tensor], Tensor]:
    """float16, but for the Fourier units: cuFFT takes powers of two only."""
    generator = copy.deepcopy(model.generator)
    keep_fourier_exact(generator, example.device)

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.float16):
            found: Tensor = generator(x)
        return found.float()

    return run


def _compiled(model: InpaintingModel, example: Tensor) -> Callable[[Tensor], Tensor]:
    compiled: Callable[[Tensor], Tensor] = torch.compile(model.generator)
    return compiled


def _compiled_autocast(model: InpaintingModel, example: Tensor) -> Callable[[Tensor], Tensor]:
    """The same in float16, but for the Fourier units."""
    compiled: Callable[[Tensor], Tensor] = torch.compile(_autocast(model, example))
    return compiled


def _exported(model: InpaintingModel, example: Tensor) -> Callable[[Tensor], Any]:
    """torch.export, compiled ahead of time by inductor for the example's size."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    exported = torch.export.export(model.generator, (example,))
    with TemporaryDirectory() as folder:
        path = aoti_compile_and_package(exported, package_path=str(Path(folder) / "lama.pt2"))
        loaded: Callable[[Tensor], Any] = aoti_load_package(path)
    return loaded


def _script(model: InpaintingModel, example: Tensor) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but what published files are made of
        traced = torch.jit.freeze(torch.jit.trace(model.generator, example))  # type: ignore[no-untyped-call]
    script: Callable[[Tensor], Tensor] = traced
    return script


def _onnxruntime(model: InpaintingModel, example: Tensor) -> Callable[[Tensor], Any]:
    import onnxruntime

    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = str(Path(folder) / "model.onnx")
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(model.generator, (example,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda x: session.run(None, {given.name: x.numpy()})[0]


def _openvino(precision: str) -> Maker:
    def make(model: InpaintingModel, example: Tensor) -> Callable[[Tensor], Any]:
        import openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = openvino.convert_model(
                model.generator, example_input=example, input=list(example.shape)
            )
        config = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(converted, "CPU", config)
        return lambda x: compiled(x.numpy())[0]

    return make


MAKERS: dict[str, Maker] = {
    "reference": _reference,
    "reference exact": _exactly,
    "reference autocast": _autocast,
    "torch.compile": _compiled,
    "torch.compile autocast": _compiled_autocast,
    "torch.export": _exported,
    "TorchScript": _script,
    "ONNX Runtime": _onnxruntime,
    "OpenVINO float32": _openvino("f32"),
    "OpenVINO bfloat16": _openvino("bf16"),
}

NAMES = ("reference", "engine half", "engine float32", *list(MAKERS)[1:])
