"""`original_mask_shm_info`: pixels outside the sender's own mask are the original's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from harness.jobs import CANVAS
from harness.wire import Pipeline, page
from harness.workers import StartWorker
from tests.core.support import wait_until_idle

SIZE = (200, 300)
FIELD = "original_mask_shm_info"

Form = Callable[[np.ndarray], np.ndarray]

FORMS: dict[str, Form] = {
    "uint8": lambda mask: mask,
    "bool": lambda mask: mask > 0,
    "float32": lambda mask: mask.astype(np.float32),
    "one channel": lambda mask: mask[..., None],
    "three channels": lambda mask: np.stack([mask, mask * 0, mask * 0], axis=2),
}


@pytest.mark.parametrize("form", FORMS)
def test_only_pixels_of_the_originals_mask_differ_from_the_original(
    start_worker: StartWorker, pipeline: Pipeline, form: str
) -> None:
    worker = start_worker()
    image, mask = page(*SIZE, seed=5)
    message = pipeline.message(
        *(image, mask, "long"), canvas=CANVAS, original=True, original_mask=FORMS[form](mask)
    )
    pipeline.push(message, "long")
    picture = pipeline.fetch(message["request_id"])
    assert np.array_equal(picture[mask == 0], image[mask == 0])
    assert (picture[mask > 0] != image[mask > 0]).any(axis=1).mean() > 0.9
    assert "WARNING" not in worker.output
    wait_until_idle(pipeline.redis)
    assert pipeline.exists(message[FIELD]["shm_name"])  # the sender's, as the original
    assert not pipeline.exists(message["preprocessed_mask_shm_info"]["shm_name"])


def test_without_it_pixels_beside_the_mask_differ(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    start_worker()
    image, mask = page(*SIZE, seed=5)
    message = pipeline.message(image, mask, "long", canvas=CANVAS, original=True)
    pipeline.push(message, "long")
    picture = pipeline.fetch(message["request_id"])
    assert (picture[mask == 0] != image[mask == 0]).any(axis=1).sum() > 100


def test_a_pixel_that_only_the_originals_mask_has_comes_from_the_resized_picture(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    start_worker()
    image, mask = page(*SIZE, seed=5)
    wider = mask.copy()
    wider[:20] = 255
    message = pipeline.message(
        *(image, mask, "long"), canvas=CANVAS, original=True, original_mask=wider
    )
    pipeline.push(message, "long")
    picture = pipeline.fetch(message["request_id"])
    assert np.array_equal(picture[wider == 0], image[wider == 0])
    added = (wider > 0) & (mask == 0)
    assert not np.array_equal(picture[added], image[added])
    assert np.abs(picture[added].astype(int) - image[added]).mean() < 60  # it is the same scene


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"shm_name": "img_shm_that_is_not_there"}, "there is no segment"),
        ({"shape": [300, 200]}, "original_mask_shm_info is 200×300, the original 300×200"),
        ({"size": 1}, "original_mask_shm_info: size is 1"),
        ({"dtype": "U1"}, "original_mask_shm_info: dtype"),
    ],
)
def test_a_job_is_done_without_an_originals_mask_that_cannot_be_read(
    start_worker: StartWorker, pipeline: Pipeline, wrong: dict[str, object], said: str
) -> None:
    worker = start_worker()
    image, mask = page(*SIZE, seed=5)
    message = pipeline.message(
        *(image, mask, "long"), canvas=CANVAS, original=True, original_mask=mask
    )
    message[FIELD] |= wrong
    pipeline.push(message, "long")
    picture = pipeline.fetch(message["request_id"])
    assert f"request {message['request_id']} is done without its original's mask: " in worker.output
    assert said in worker.output
    differing = (picture != image).any(axis=2) & (mask == 0)
    assert 0 < differing.sum() < mask.size / 4  # beside the mask, where it was enlarged


def test_an_originals_mask_of_0_and_1_is_not_used_with_a_threshold(
    start_worker: StartWorker, pipeline: Pipeline
) -> None:
    worker = start_worker(MASK_THRESHOLD=127)
    image, mask = page(*SIZE, seed=5)
    message = pipeline.message(
        *(image, mask, "long"), canvas=CANVAS, original=True, original_mask=mask // 255
    )
    pipeline.push(message, "long")
    picture = pipeline.fetch(message["request_id"])
    assert (picture[mask > 0] != image[mask > 0]).any(axis=1).mean() > 0.5
    assert "is a mask of 0 and 1" in worker.output


@pytest.mark.parametrize("composite", ["0", "1"])
def test_it_does_nothing_without_an_original(
    start_worker: StartWorker, pipeline: Pipeline, composite: str
) -> None:
    worker = start_worker(COMPOSITE_ORIGINAL=composite)
    image, mask = page(*SIZE, seed=5)
    pictures = []
    for given in (None, mask * 0):
        message = pipeline.message(
            *(image, mask, "long"),
            canvas=CANVAS,
            original=composite == "0",
            original_mask=given,
        )
        pipeline.push(message, "long")
        pictures.append(pipeline.fetch(message["request_id"]))
    assert np.array_equal(pictures[0], pictures[1])
    assert "WARNING" not in worker.output
