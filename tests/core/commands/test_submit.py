"""`worker.py submit` keeps what a file holds, at full size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from core.client.windows import MOST_WHOLE
from harness.redis_server import RedisClient
from harness.workers import StartWorker
from tests.bulk.catalogue import content, mask_for, opened, photograph
from tests.core.support import Done, Run

SIZE = (120, 160)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def put(folder: Path, page: bytes, mask: np.ndarray | bytes, name: str = "page.png") -> list[Path]:
    """The files of a submission, as arguments."""
    places = [folder / name, folder / "mask.png"]
    for place, file in zip(places, (page, mask), strict=True):
        place.write_bytes(file if isinstance(file, bytes) else content(file))
    return places


def submit(run: Run, *words: object) -> Done:
    done = run("submit", *words)
    assert done.returncode == 0, done.stderr
    return done


def test_a_tall_page_is_sent_at_full_size(
    run: Run, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    size = (3000, 200)
    image, hole = photograph(*size), mask_for(*size) > 0
    submit(run, *put(tmp_path, content(image), mask_for(*size)), "-o", tmp_path / "o.png")
    after = np.array(opened(tmp_path / "o.png"))
    assert after.shape == image.shape
    assert np.array_equal(after[~hole], image[~hole])
    assert (after[hole] != image[hole]).any(axis=1).mean() > 0.9
    # No pixel was computed from a smaller picture: the stub's colour fills the hole to its edges.
    assert len(np.unique(after[hole], axis=0)) == 1


def test_a_large_page_is_sent_by_windows_around_its_holes(
    run: Run, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker(MAX_IMAGE_PIXELS=2 << 20)
    size = (5600, 860)
    assert size[0] * size[1] > MOST_WHOLE
    image, mask = photograph(*size), np.zeros(size, np.uint8)
    for top in (100, 2700, 5300):
        mask[top : top + 80, 100:500] = 255
    files = put(tmp_path, content(image), mask)
    done = submit(run, *files, "-o", tmp_path / "o.png", "--json")
    assert len(json.loads(done.stdout)["request_ids"]) == 3
    after = np.array(opened(tmp_path / "o.png"))
    assert np.array_equal(after[mask == 0], image[mask == 0])
    assert (after[mask > 0] != image[mask > 0]).any(axis=1).mean() > 0.9


def test_the_request_of_a_result_is_named(
    run: Run, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker()
    files = put(tmp_path, content(photograph(*SIZE)), mask_for(*SIZE))
    done = submit(run, *files, "-o", tmp_path / "o.png", "--json")
    said = json.loads(done.stdout)
    worker.wait_for_line(said["request_id"])
    assert said["request_ids"] == [said["request_id"]]


def test_profile_exif_and_alpha_are_kept(
    run: Run, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    hole = mask_for(*SIZE) > 0
    image = np.dstack([photograph(*SIZE), photograph(*SIZE, 1)[..., 0]])
    tags = Image.Exif()
    tags[0x010F] = "maker"
    page = content(image, icc_profile=PROFILE, exif=tags)
    submit(run, *put(tmp_path, page, mask_for(*SIZE)), "-o", tmp_path / "o.png")
    after = opened(tmp_path / "o.png")
    assert after.mode == "RGBA"
    assert after.info["icc_profile"] == PROFILE
    assert after.getexif()[0x010F] == "maker"
    assert np.array_equal(np.array(after)[~hole], image[~hole])
    assert (np.array(after)[hole] != image[hole]).any(axis=1).mean() > 0.9


def test_text_on_transparent_ground_leaves_no_silhouette(
    run: Run, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    image = np.zeros((*SIZE, 4), np.uint8)
    image[mask_for(*SIZE) > 0] = 255
    submit(run, *put(tmp_path, content(image), mask_for(*SIZE)), "-o", tmp_path / "o.png")
    assert not np.array(opened(tmp_path / "o.png"))[..., 3].any()


def test_16_bits_are_kept(run: Run, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker()
    hole = mask_for(*SIZE) > 0
    deep = np.random.default_rng(0).integers(0, 65536, (*SIZE, 3)).astype(np.uint16)
    page = cv2.imencode(".png", deep)[1].tobytes()
    submit(run, *put(tmp_path, page, mask_for(*SIZE)), "-o", tmp_path / "o.png")
    after = cv2.imread(str(tmp_path / "o.png"), cv2.IMREAD_UNCHANGED)
    assert after is not None
    assert after.dtype == np.uint16
    assert np.array_equal(after[~hole], deep[~hole])


def test_a_turned_page_is_masked_as_it_is_shown(
    run: Run, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    tags = Image.Exif()
    tags[0x0112] = 6
    page = content(photograph(*SIZE), "JPEG", exif=tags, quality=95)
    shown = mask_for(SIZE[1], SIZE[0])
    submit(run, *put(tmp_path, page, shown, "page.jpg"), "-o", tmp_path / "o.png")
    after = np.array(opened(tmp_path / "o.png"))
    wanted = np.rot90(photograph(*SIZE), -1)
    assert np.abs(after.astype(int) - wanted)[shown == 0].mean() < 4
    assert np.abs(after.astype(int) - wanted)[shown > 0].mean() > 20


@pytest.mark.parametrize("dark", [(0, 0, 3), (1, 0, 0)])
def test_a_dark_colour_of_a_mask_is_erased(
    run: Run, start_worker: StartWorker, tmp_path: Path, dark: Any
) -> None:
    start_worker()
    hole = mask_for(*SIZE) > 0
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[hole] = dark
    mask[hole & (np.indices(SIZE)[1] > 50)] = 255
    image = photograph(*SIZE)
    submit(run, *put(tmp_path, content(image), content(mask)), "-o", tmp_path / "o.png")
    after = np.array(opened(tmp_path / "o.png"))
    assert np.array_equal(after[~hole], image[~hole])
    assert (after[hole] != image[hole]).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("seconds", ["nan", "0", "-1", "soon", "-inf"])
def test_a_timeout_that_is_no_time_is_refused(run: Run, tmp_path: Path, seconds: str) -> None:
    files = put(tmp_path, content(photograph(*SIZE)), mask_for(*SIZE))
    done = run("submit", *files, f"--timeout={seconds}", "-o", tmp_path / "o.png")
    assert done.returncode == 2
    assert f"'{seconds}' must be a number of seconds above 0" in done.stderr


@pytest.mark.parametrize("place", [0, 1, 3])
def test_an_empty_name_is_refused(run: Run, tmp_path: Path, place: int) -> None:
    words = [*put(tmp_path, content(photograph(*SIZE)), mask_for(*SIZE)), "-o", "o.png"]
    words[place] = ""
    done = run("submit", *words)
    assert done.returncode == 2
    assert "it is empty: name a file" in done.stderr


@pytest.mark.parametrize("same", ["page.png", "mask.png", "link.png", "sub/../page.png"])
def test_a_result_must_not_replace_the_picture_or_the_mask(
    run: Run, tmp_path: Path, same: str
) -> None:
    files = put(tmp_path, content(photograph(*SIZE)), mask_for(*SIZE))
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to(files[1])
    before = [file.read_bytes() for file in files]
    done = run("submit", *files, "-o", tmp_path / same)
    assert done.returncode == 1
    assert f"{same} cannot be written: it would replace" in done.stderr
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize(
    ("place", "name", "said"),
    [
        (0, "x" * 300 + ".png", "cannot be read: File name too long"),
        (1, "loop.png", "cannot be read: Too many levels of symbolic links"),
        (1, "none.png", "none.png is not a file"),
        (3, "x" * 300 + ".png", "cannot be written: File name too long"),
        (3, "loop.png", "cannot be written: Too many levels of symbolic links"),
    ],
)
def test_a_name_that_can_be_no_file_is_refused_with_a_line(
    run: Run, tmp_path: Path, place: int, name: str, said: str
) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    files = put(tmp_path, content(photograph(*SIZE)), mask_for(*SIZE))
    words = [*files, "-o", tmp_path / "o.png"]
    words[place] = tmp_path / name
    done = run("submit", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("ink", [0, 255])
def test_a_mask_whose_shape_is_in_its_alpha_is_what_bulk_takes(
    run: Run, start_worker: StartWorker, tmp_path: Path, ink: int
) -> None:
    start_worker()
    hole = mask_for(*SIZE) > 0
    layer = np.full((*SIZE, 4), ink, np.uint8)
    layer[..., 3] = mask_for(*SIZE)
    image = photograph(*SIZE)
    submit(run, *put(tmp_path, content(image), content(layer)), "-o", tmp_path / "o.png")
    after = np.array(opened(tmp_path / "o.png"))
    assert np.array_equal(after[~hole], image[~hole])
    assert (after[hole] != image[hole]).any(axis=1).mean() > 0.9


def test_a_mask_that_may_be_inverted_is_named(
    run: Run, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    files = put(tmp_path, content(photograph(*SIZE)), ~mask_for(*SIZE))
    done = submit(run, *files, "-o", tmp_path / "o.png")
    assert "page.png: 95% of it is a hole: is its mask inverted?" in done.stderr


@pytest.mark.parametrize(
    ("page", "mask", "output", "said"),
    [
        (photograph(*SIZE), np.zeros(SIZE, np.uint8), "o.png", "mask.png has no hole"),
        (photograph(*SIZE), np.zeros((8, 9), np.uint8), "o.png", "its mask is 9×8, the picture"),
        (photograph(*SIZE), b"no mask", "o.png", "mask.png: its mask: it is not a picture"),
        (b"no page", mask_for(*SIZE), "o.png", "page.png: it is not a picture"),
        (np.dstack([mask_for(*SIZE)] * 4), mask_for(*SIZE), "o.jpg", "alpha channel, which JPEG"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_is_sent(
    run: Run,
    client: RedisClient,
    tmp_path: Path,
    page: Any,
    mask: Any,
    output: str,
    said: str,
) -> None:
    file = page if isinstance(page, bytes) else content(page)
    files = put(tmp_path, file, mask)
    done = run("submit", *files, "-o", tmp_path / output)
    assert done.returncode == 1
    assert said in done.stderr
    assert not client.keys("lama_inference:*")
    assert not (tmp_path / output).exists()
