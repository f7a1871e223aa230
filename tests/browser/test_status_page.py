"""The status page as a person uses it, in a real browser."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from harness.admin import PORT, Admin
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import Pipeline
from harness.wire import page as picture
from harness.workers import StartWorker, segments

OpenPage = Callable[..., Any]
SECRET = "correct horse"

INJECTION = (
    "<img src=x onerror='window.harmed=1'><script>window.harmed=1</script>"
    "\"'><svg onload=window.harmed=1>"
)

#: The height, from 0 (bottom) to 1 (top), that the first line of the chart `id` reaches.
PEAK = """id => {
  const { width, height } = document.querySelector(`#${id} canvas`);
  const pen = document.querySelector(`#${id} canvas`).getContext("2d");
  const { data } = pen.getImageData(0, 0, width, height);
  const style = getComputedStyle(document.documentElement);
  const wanted = style.getPropertyValue("--first").match(/[0-9a-f]{2}/gi);
  const [red, green, blue] = wanted.map((pair) => parseInt(pair, 16));
  for (let i = 0; i < data.length; i += 4) {
    const [r, g, b, alpha] = data.slice(i, i + 4);
    const far = Math.abs(r - red) + Math.abs(g - green) + Math.abs(b - blue);
    if (far < 12 && alpha > 200) return 1 - Math.floor(i / 4 / width) / height;
  }
  return 0;
}"""


@pytest.fixture
def admin(start_worker: StartWorker, pipeline: Pipeline) -> Admin:
    """The admin port of a worker that has a token and shows previews."""
    return Admin(start_worker(ADMIN_PORT=PORT, ADMIN_TOKEN=SECRET, STATUS_PREVIEWS=1))


def address(admin: Admin) -> str:
    return f"http://localhost:{admin.port}/"


def tile(page: Any, label: str) -> str:
    """The value of a tile."""
    found = page.locator(".tile").filter(has_text=label).locator(".value")
    return str(found.inner_text()) if found.count() else ""


def peak(page: Any, chart: str) -> float:
    """How high the first line of a chart reaches, from 0 to 1; 0 if there is none."""
    return float(page.evaluate(PEAK, chart))


def unlock(page: Any, token: str = SECRET) -> None:
    page.click("#unlock")
    page.fill("#token", token)
    page.keyboard.press("Enter")


def test_the_charts_and_numbers_move_with_the_work(
    admin: Admin, pipeline: Pipeline, open_page: OpenPage
) -> None:
    page = open_page(address(admin))
    page.wait_for_selector("#state.good")
    assert tile(page, "Done here") == "0"
    wait_until(lambda: peak(page, "chart-rate") > 0, "there is a line")
    still = peak(page, "chart-rate")
    requests = [pipeline.submit(*picture(60, 90, 1), "long", canvas=(64, 96)) for _ in range(5)]
    for request in requests:
        pipeline.fetch(request)
    wait_until(lambda: peak(page, "chart-rate") > still + 0.3, "the line has risen")
    wait_until(lambda: peak(page, "chart-latency") > 0, "there are durations")
    wait_until(lambda: tile(page, "Done here") == "5", "the tile says 5")
    assert page.locator("#batch-list tbody tr").count() == len(admin.status["batches"])
    assert "ADMIN_PORT" in page.inner_text("#settings-list")


def test_a_failure_appears_and_what_it_says_is_text(
    admin: Admin, pipeline: Pipeline, open_page: OpenPage
) -> None:
    page = open_page(address(admin))
    page.wait_for_selector("#state.good")
    assert "No job has been given up" in page.inner_text("#dead-list")
    pipeline.submit(
        *picture(60, 90, 1),
        "short",
        canvas=(64, 96),
        image_id=INJECTION,
        request_id=f"r{INJECTION}",
        padding_info=[INJECTION],
    )
    for place in ("#failure-list", "#dead-list"):
        page.locator(place).get_by_text(INJECTION, exact=True).first.wait_for()
        assert "bad_field" in page.inner_text(place)
        assert page.locator(f"{place} :is(img, script, svg)").count() == 0
    wait_until(lambda: tile(page, "Dead") == "1", "the tile says 1")
    assert page.evaluate("window.harmed") is None


def test_a_dead_job_is_retried_and_then_discarded(
    admin: Admin, pipeline: Pipeline, client: RedisClient, open_page: OpenPage
) -> None:
    page = open_page(address(admin))
    pipeline.submit(*picture(60, 90, 1), "short", canvas=(64, 96), image_id="explode.jpg")
    page.locator("#dead-list").get_by_text("explode.jpg").wait_for()
    assert page.locator("#dead-list button").count() == 0
    unlock(page, "a guess")
    page.locator("#token-error").get_by_text("this is not ADMIN_TOKEN").wait_for()
    assert page.locator("#token-dialog").is_visible(), "it can be corrected"
    page.fill("#token", SECRET)
    page.click("#token-ok")
    page.locator("#token-dialog").wait_for(state="hidden")
    dead = client.lrange("inpainting:dead", 0, -1)
    page.get_by_role("button", name="Retry").click()
    wait_until(lambda: client.lrange("inpainting:dead", 0, -1) not in (dead, []), "it died again")
    wait_until(lambda: admin.status["worker"]["dead"] == 2, "it was tried")
    page.get_by_role("button", name="Discard").click()
    page.get_by_role("button", name="Sure?").click()
    page.get_by_text("No job has been given up").wait_for()
    assert client.llen("inpainting:dead") == 0
    assert not segments()
    page.click("#unlock")  # which locks it now
    page.locator("#unlock").get_by_text("Unlock").wait_for()


def test_a_picture_is_tried_with_a_painted_mask(
    admin: Admin, pipeline: Pipeline, open_page: OpenPage, tmp_path: Path
) -> None:
    image, _ = picture(240, 360, 5)
    cv2.imwrite(str(tmp_path / "banner.png"), image)
    page = open_page(address(admin))
    page.set_input_files("#picture-file", str(tmp_path / "banner.png"))
    page.click("#send")
    page.get_by_text("Paint over something first.").wait_for()
    box = page.locator(".easel .mask").bounding_box()
    scale = 360 / box["width"]
    page.mouse.move(box["x"] + 100 / scale, box["y"] + 120 / scale)
    page.mouse.down()
    page.mouse.move(box["x"] + 200 / scale, box["y"] + 120 / scale, steps=5)
    page.mouse.up()
    page.click("#send")
    page.wait_for_selector("#timings")
    assert re.search(r"total [\d.]+ m?s", page.inner_text("#timings"))
    assert "inference" in page.inner_text("#timings")
    with page.expect_download() as downloading:
        page.get_by_text("Download").click()
    result = cv2.imread(str(downloading.value.path()))
    assert result is not None
    assert result.shape == image.shape
    assert (result[118:122, 110:190] == 128).all(), "the stub's grey where it was painted"
    assert np.array_equal(result[:80], image[:80]), "and nothing else is changed"
    # The slider uncovers the picture before.
    split = page.locator("#outcome .compare").first
    page.locator("#outcome input[type=range]").fill("80")
    assert split.evaluate("one => one.style.getPropertyValue('--split')") == "80%"
    # And the picture is among the latest ones.
    page.locator("#gallery").get_by_text("banner.png").wait_for()
    shown = page.locator("#gallery img.before").first
    wait_until(lambda: shown.evaluate("one => one.naturalWidth") == 360, "the picture is shown")


def test_a_mask_is_taken_from_a_file(admin: Admin, open_page: OpenPage, tmp_path: Path) -> None:
    image, mask = picture(240, 360, 5)
    cv2.imwrite(str(tmp_path / "banner.png"), image)
    cv2.imwrite(str(tmp_path / "mask.png"), np.where(mask > 0, 1, 0).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "small.png"), mask[:100])
    (tmp_path / "text.png").write_text("no picture")
    page = open_page(address(admin))
    page.set_input_files("#picture-file", str(tmp_path / "text.png"))
    page.get_by_text("not a picture that this browser can read").wait_for()
    page.set_input_files("#picture-file", str(tmp_path / "banner.png"))
    page.set_input_files("#mask-file", str(tmp_path / "small.png"))
    page.get_by_text("they must have the same size").wait_for()
    page.set_input_files("#mask-file", str(tmp_path / "mask.png"))
    page.click("#send")
    page.wait_for_selector("#timings")
    source = page.locator("#outcome img.after").get_attribute("src")
    data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
    result = cv2.imdecode(data, 1)
    assert result is not None
    assert np.array_equal(result[mask == 0], image[mask == 0])
    assert not np.array_equal(result[mask > 0], image[mask > 0])


def test_a_tall_picture_is_shown_as_wide_as_there_is_room_and_its_result_scrolls_with_it(
    admin: Admin, open_page: OpenPage, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "page.png"), picture(3000, 860, 5)[0])
    page = open_page(address(admin))
    page.set_input_files("#picture-file", str(tmp_path / "page.png"))
    column = page.locator(".bench > div").first.bounding_box()["width"]
    assert page.locator(".easel").bounding_box()["width"] > 0.9 * column
    pane = page.locator(".pane").first
    assert pane.bounding_box()["height"] < 900
    pane.evaluate("one => one.scrollTo(0, 1000)")
    box = pane.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 100, steps=5)
    page.mouse.up()
    page.click("#send")
    page.wait_for_selector("#timings")
    result = page.locator("#outcome .pane")
    assert result.evaluate("one => one.scrollTop") == 1000
    page.select_option("#zoom", "full")
    assert page.locator(".easel").bounding_box()["width"] > 860
    page.select_option("#zoom", "whole")
    assert page.locator(".easel").bounding_box()["height"] < 0.63 * 900


def test_the_legends_have_the_latest_values(admin: Admin, open_page: OpenPage) -> None:
    page = open_page(address(admin))
    page.wait_for_selector("#state.good")
    wait_until(lambda: peak(page, "chart-rate") > 0, "there is a line")
    legend = page.locator("#chart-backlog .u-legend")
    wait_until(lambda: re.search(r"time:?\s*\d\d:\d\d:\d\d", legend.inner_text()), "it has a time")
    assert re.search(r"long:?\s*0", legend.inner_text())
    assert "--" not in page.inner_text(".charts")


def luminance(page: Any, what: str) -> float:
    """How light the page's body is, in its `color` or `backgroundColor`, from 0 to 255."""
    colour = page.evaluate(f"getComputedStyle(document.body).{what}")
    return float(np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]]))


def wait_for_line(page: Any, scheme: str) -> None:
    wait_until(lambda: peak(page, "chart-rate") > 0, f"there is a line in the colour of {scheme}")


def test_both_colour_schemes_can_be_read(admin: Admin, open_page: OpenPage) -> None:
    for scheme, other in (("light", "dark"), ("dark", "light")):
        page = open_page(address(admin), color_scheme=scheme)
        page.wait_for_selector("#state.good")
        wait_for_line(page, scheme)
        contrast = luminance(page, "color") - luminance(page, "backgroundColor")
        assert contrast < -150 if scheme == "light" else contrast > 150
        page.emulate_media(color_scheme=other)
        wait_for_line(page, other)
        page.close()


def test_nothing_is_wider_than_a_phone(
    admin: Admin, pipeline: Pipeline, open_page: OpenPage
) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    page = open_page(address(admin), **phone)
    pipeline.submit(
        *picture(60, 90, 1), "short", canvas=(64, 96), image_id="W" * 300, padding_info=[1]
    )
    page.locator("#dead-list").get_by_text("W" * 300).wait_for()
    page.click("#sample")
    page.wait_for_selector("#send")
    unlock(page)
    page.get_by_role("button", name="Discard").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_role("button", name="Discard").click()
    page.get_by_role("button", name="Sure?").click()
    page.get_by_text("No job has been given up").wait_for()


def test_a_worker_that_is_gone_is_told_as_such(
    start_worker: StartWorker, pipeline: Pipeline, open_page: OpenPage
) -> None:
    worker = start_worker(ADMIN_PORT=PORT)
    admin = Admin(worker)
    page = open_page(address(admin))
    page.wait_for_selector("#state.good")
    assert page.locator("#unlock").is_hidden()
    assert worker.stop() == 0
    page.get_by_text("The worker does not answer").wait_for()
    assert page.inner_text("#state") == "not reached"


def test_under_another_name_than_localhost_a_picture_is_tried_only_with_the_token(
    start_worker: StartWorker, pipeline: Pipeline, open_page: OpenPage
) -> None:
    admin = Admin(start_worker(ADMIN_HOST="0.0.0.0", ADMIN_PORT=PORT, ADMIN_TOKEN=SECRET))
    try:
        socket.getaddrinfo(socket.gethostname(), admin.port)
    except OSError:
        pytest.skip("this machine's own name does not resolve")
    page = open_page(f"http://{socket.gethostname()}:{admin.port}/")
    page.get_by_text("Unlock the page to try a picture.").wait_for()
    assert page.locator("#try-panel").is_hidden()
    unlock(page)
    page.click("#sample")
    page.click("#send")
    page.wait_for_selector("#timings")
