"""`worker.py` as it is started, with a real (small) network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from harness import ROOT
from harness.redis_server import RedisClient, RedisServer
from harness.waiting import wait_until
from harness.wire import Kind, Pipeline, page
from harness.workers import OWN, StartWorker
from lama import regions
from lama.inference import batch_inference, load_lama_model
from lama.refinement import Refiner
from tests.core.support import GOLDEN, MODEL


def run(*command: object, **environment: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_the_result_is_the_networks_own(start_worker: StartWorker, pipeline: Pipeline) -> None:
    start_worker(ROOT / "worker.py", USE_FP16=0, **MODEL)
    model, config = load_lama_model(MODEL["LAMA_CONFIG_PATH"], MODEL["LAMA_CHECKPOINT_PATH"], "cpu")
    kinds: tuple[Kind, ...] = ("long", "short")
    for seed, kind in enumerate(kinds, start=1):
        image, mask = page(100, 140, seed)
        rgb, grey, padding, size = pipeline.prepare(image, mask, kind, canvas=(112, 160))
        (filled,) = batch_inference([rgb], [grey], model, config, "cpu", use_fp16=False)
        expected = pipeline.expected_restore(filled, padding, size)[..., ::-1]
        request = pipeline.submit(image, mask, kind, canvas=(112, 160))
        assert np.array_equal(pipeline.fetch(request), expected)


@pytest.mark.parametrize("config", ["", "/nowhere/config.yaml"])
def test_a_worker_needs_no_config(
    start_worker: StartWorker, pipeline: Pipeline, config: str
) -> None:
    weights = MODEL["LAMA_CHECKPOINT_PATH"]
    worker = start_worker(
        ROOT / "worker.py",
        USE_FP16=0,
        USE_CUDA=0,
        LAMA_CONFIG_PATH=config,
        LAMA_CHECKPOINT_PATH=weights,
    )
    model, train_config = load_lama_model(None, weights, "cpu")
    image, mask = page(100, 140, 1)
    rgb, grey, padding, size = pipeline.prepare(image, mask, "short", canvas=(112, 160))
    (filled,) = batch_inference([rgb], [grey], model, train_config, "cpu", use_fp16=False)
    request = pipeline.submit(image, mask, "short", canvas=(112, 160))
    expected = pipeline.expected_restore(filled, padding, size)[..., ::-1]
    assert np.array_equal(pipeline.fetch(request), expected)
    assert (f"there is no config file {config}" in worker.output) == bool(config)


@pytest.mark.parametrize("region", ["content", "mask"])
def test_the_network_is_shown_the_region_that_is_set(
    start_worker: StartWorker, pipeline: Pipeline, region: regions.Region
) -> None:
    start_worker(ROOT / "worker.py", USE_FP16=0, INPAINT_REGION=region, **MODEL)
    model, config = load_lama_model(MODEL["LAMA_CONFIG_PATH"], MODEL["LAMA_CHECKPOINT_PATH"], "cpu")
    image, mask = page(100, 140, 1)
    image[::3] //= 2  # a texture: a plane of colour would be filled without the network
    rgb, grey, padding, size = pipeline.prepare(image, mask, "short", canvas=(256, 320))
    shown: list[tuple[int, int]] = []

    def fill(images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        shown.extend(mask.shape[:2] for mask in masks)
        return batch_inference(images, masks, model, config, "cpu", use_fp16=False)

    top, right, bottom, left = padding
    (filled,) = regions.inpaint(fill, [rgb], [grey], region, [(top, right, bottom, left)])
    assert shown
    assert (256, 320) not in shown
    expected = pipeline.expected_restore(filled, padding, size)[..., ::-1]
    request = pipeline.submit(image, mask, "short", canvas=(256, 320))
    assert np.array_equal(pipeline.fetch(request), expected)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as the worker is given beside it: where sums are parted, they are rounded alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_large_holes_are_refined_where_that_is_set(
    start_worker: StartWorker, pipeline: Pipeline, one_thread: None
) -> None:
    worker = start_worker(ROOT / "worker.py", USE_FP16=0, REFINE=1, OMP_NUM_THREADS=1, **MODEL)
    assert "full, refined" in worker.output
    model, config = load_lama_model(MODEL["LAMA_CONFIG_PATH"], MODEL["LAMA_CHECKPOINT_PATH"], "cpu")
    y, x = np.mgrid[:720, :760]
    image = np.stack([128 + 90 * np.sin(x / 9 + y / n) for n in (7, 11, 13)], -1).astype(np.uint8)
    mask = np.zeros((720, 760), np.uint8)
    mask[200:320, 300:440] = 255
    rgb, grey, padding, size = pipeline.prepare(image, mask, "short", canvas=(736, 768))

    usual = batch_inference([rgb], [grey], model, config, "cpu", use_fp16=False)
    refine = Refiner(model, "cpu")
    top, right, bottom, left = padding
    (filled,) = refine([rgb], [grey], usual, [(top, right, bottom, left)])
    assert not np.array_equal(filled, usual[0])
    expected = pipeline.expected_restore(filled, padding, size)[..., ::-1]
    request = pipeline.submit(image, mask, "short", canvas=(736, 768))
    assert np.array_equal(pipeline.fetch(request), expected)


def test_a_program_written_from_the_contract_alone_gets_its_pictures(
    start_worker: StartWorker, server: RedisServer, client: RedisClient, shm_baseline: None
) -> None:
    worker = start_worker(ROOT / "worker.py", **MODEL)
    done = run("-W", "error", ROOT / "harness/wire.py", server.url, "--count", 1, PYTHONPATH=ROOT)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert worker.stop() == 0
    assert "resource_tracker" not in worker.output
    assert client.keys("inpainting*") == client.keys("inpainting:segments:*")


def test_submit_returns_the_picture_with_its_own_pixels_outside_the_hole(
    start_worker: StartWorker, server: RedisServer, client: RedisClient, tmp_path: Path
) -> None:
    start_worker(ROOT / "worker.py", **MODEL)
    image, mask = page(300, 1100, seed=4)
    cv2.imwrite(str(tmp_path / "page.png"), image)
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    before = set(os.listdir("/dev/shm"))
    done = run(
        ROOT / "worker.py",
        "submit",
        tmp_path / "page.png",
        tmp_path / "mask.png",
        "-o",
        tmp_path / "clean.png",
        REDIS_URL=server.url,
    )
    assert done.returncode == 0, done.stderr
    result = cv2.imread(str(tmp_path / "clean.png"))
    assert result is not None
    far = cv2.dilate(mask, np.ones((9, 9), np.uint8)) == 0
    assert np.array_equal(result[far], image[far])
    assert not np.array_equal(result[mask > 0], image[mask > 0])
    assert client.keys("inpainting_result:*") == []
    wait_until(
        lambda: not {name for name in set(os.listdir("/dev/shm")) - before if OWN in name},
        "the worker's segments are gone",
    )


@pytest.mark.parametrize(
    ("picture", "mask", "complaint"),
    [
        ("missing.png", "mask.png", "missing.png is not a file"),
        ("page.png", "page.txt", "page.txt: its mask: it is not a picture"),
        ("page.png", "small.png", "its mask is 5×4, the picture 50×40"),
        ("page.png", "mask.png", "is a worker running"),
    ],
)
def test_submit_says_what_is_wrong_and_leaves_nothing_behind(
    client: RedisClient,
    server: RedisServer,
    tmp_path: Path,
    picture: str,
    mask: str,
    complaint: str,
) -> None:
    cv2.imwrite(str(tmp_path / "page.png"), np.zeros((40, 50, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "mask.png"), np.eye(40, 50, dtype=np.uint8) * 255)
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((4, 5), np.uint8))
    (tmp_path / "page.txt").write_text("no picture")
    done = run(
        ROOT / "worker.py",
        "submit",
        tmp_path / picture,
        tmp_path / mask,
        "--timeout",
        0.2,
        REDIS_URL=server.url,
    )
    assert done.returncode == 1
    assert complaint in done.stderr.splitlines()[-1]
    assert client.keys() == []


def test_a_model_that_cannot_be_loaded_ends_the_worker_with_one_clear_line(
    start_worker: StartWorker, client: RedisClient, tmp_path: Path
) -> None:
    broken = tmp_path / "best.ckpt"
    broken.write_bytes(GOLDEN.joinpath("models/best.ckpt").read_bytes()[:5000])
    for path in (broken, tmp_path / "missing.ckpt"):
        settings = MODEL | {"LAMA_CHECKPOINT_PATH": path}
        worker = start_worker(ROOT / "worker.py", ready=False, LOG_LEVEL="INFO", **settings)
        assert worker.wait() == 1
        (line,) = worker.output.splitlines()
        assert "the model cannot be loaded" in line
        assert str(path) in line
    assert client.keys() == []


def test_a_wrong_setting_ends_the_worker_at_once_with_one_clear_line() -> None:
    done = run(ROOT / "worker.py", INPAINTING_BATCH_SIZE_LONG="many")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "INPAINTING_BATCH_SIZE_LONG='many'" in line


def test_an_unusable_redis_ends_the_worker_with_one_clear_line(
    start_worker: StartWorker, client: RedisClient, server: RedisServer
) -> None:
    client.config_set("requirepass", "secret")
    try:
        worker = start_worker(ready=False, REDIS_URL=server.url.replace("//", "//:wrong@"))
        assert worker.wait() == 1
        assert "redis refuses this user" in worker.output.splitlines()[-1]
        assert "wrong" not in worker.output.replace("WRONGPASS", "").replace("wrong number", "")
    finally:
        client.execute_command("AUTH", "secret")
        client.config_set("requirepass", "")


def test_a_foreign_core_mounted_over_this_one_is_told_in_one_line(tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "core").mkdir(parents=True)
    (app / "core" / "config.py").write_text("REDIS_URL = ''\n")
    shutil.copy(ROOT / "worker.py", app)
    for marker in ("", "raise ImportError('no such thing')\n"):
        (app / "core" / "__init__.py").write_text(marker)
        done = run(app / "worker.py", PYTHONPATH=app)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "core" in line
        assert "Mount this project's core/" in line
    (app / "core" / "__init__.py").unlink()  # a namespace package
    assert str(app / "core") in run(app / "worker.py", PYTHONPATH=app).stderr


def test_the_front_door_may_be_mounted_anywhere(
    start_worker: StartWorker, pipeline: Pipeline, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "workers" / "inpainting_worker"
    elsewhere.mkdir(parents=True)
    shutil.copy(ROOT / "worker.py", elsewhere)
    path = f"{ROOT}:{ROOT / 'lama'}"
    start_worker(elsewhere / "worker.py", PYTHONPATH=path, **MODEL)
    image, mask = page(60, 90, 1)
    request = pipeline.submit(image, mask, "short", canvas=(64, 96))
    assert pipeline.fetch(request).shape == image.shape


def test_help_names_every_command() -> None:
    done = run(ROOT / "worker.py", "--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("run", "submit", "demo"))
