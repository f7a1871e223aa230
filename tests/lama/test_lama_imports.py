"""Both spellings of the module path work, and the network stays apart from the worker."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lama import tiny

ROOT = Path(__file__).parents[2]


def python(code: str, *paths: Path) -> str:
    """Runs code in a fresh interpreter that finds modules under `paths` only."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment, cwd="/", capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOAD = f"""
from omegaconf import OmegaConf
model = load_checkpoint(
    OmegaConf.load({str(tiny.GOLDEN / "blocks9-ngf8" / "config.yaml")!r}),
    {str(tiny.GOLDEN / "blocks9-ngf8" / "models" / "best.ckpt")!r},
    map_location="cpu",
    strict=False,
)
print(type(model.generator).__module__, len(model.generator.state_dict()))
"""


@pytest.mark.parametrize("paths", [(ROOT, ROOT / "lama"), (ROOT / "lama",)])
def test_the_originals_module_paths_work(paths):
    code = "from saicinpainting.training.trainers import load_checkpoint\n" + LOAD
    assert python(code, *paths) == "saicinpainting.training.modules.ffc 521"


def test_the_packages_module_paths_work_without_the_worker():
    code = (
        "import sys\n"
        "from lama.bin.inference import load_lama_model, batch_inference, restore_from_padding\n"
        "from lama.saicinpainting.training.trainers import load_checkpoint\n"
        + LOAD
        + "print(sorted({'core', 'redis', 'saicinpainting', 'omegaconf'} & set(sys.modules)))\n"
    )
    expected = "lama.saicinpainting.training.modules.ffc 521\n['omegaconf']"
    assert python(code, ROOT) == expected


def test_the_shipped_weights_load():
    code = (
        "from lama.bin.inference import load_lama_model\n"
        f"model, config = load_lama_model({str(ROOT / 'lama-fourier' / 'config.yaml')!r},"
        f" {str(ROOT / 'lama-fourier' / 'models' / 'best.ckpt')!r}, 'cpu')\n"
        "print(config.generator.ngf, len(model.generator.state_dict()))"
    )
    assert python(code, ROOT) == "32 521"


#: What only training and evaluation need; these names must be those of the present places.
TRAINING = ("kornia", "skimage", "scipy", "lama.evaluation", "lama.training")


@pytest.mark.parametrize("module", ["lama.bin.inference", "lama.inpainter"])
def test_inference_imports_nothing_that_only_training_needs(module):
    code = f"import sys, {module}\nprint([name for name in {TRAINING} if name in sys.modules])\n"
    assert python(code, ROOT) == "[]"


def test_what_only_training_needs_is_where_the_test_above_looks_for_it():
    assert [name for name in TRAINING if importlib.util.find_spec(name) is None] == []
    code = (
        "import sys, lama.bin.train, lama.bin.evaluate\n"
        "print([name for name in ('lama.evaluation', 'lama.training') if name in sys.modules])\n"
    )
    assert python(code, ROOT) == "['lama.evaluation', 'lama.training']"


LOAD_WITHOUT_CONFIG = f"""
path = {str(tiny.GOLDEN / "blocks9-ngf8" / "models" / "best.ckpt")!r}
print(len(load_checkpoint(None, path).generator.state_dict()))
"""


@pytest.mark.parametrize("package", ["saicinpainting", "lama.saicinpainting"])
def test_no_config_is_needed_under_either_path(package):
    code = f"from {package}.training.trainers import load_checkpoint\n" + LOAD_WITHOUT_CONFIG
    assert python(code, ROOT, ROOT / "lama") == "521"
