from __future__ import annotations

import pytest

from lama.inference import load_lama_model
from lama.saicinpainting.training.trainers import InpaintingModel
from tests.lama import tiny


@pytest.fixture(scope="session")
def golden_models() -> dict[str, InpaintingModel]:
    return {
        name: load_lama_model(
            tiny.GOLDEN / name / "config.yaml", tiny.GOLDEN / name / "models" / "best.ckpt", "cpu"
        )[0]
        for name in ("blocks2-ngf16", "blocks9-ngf8")
    }
