"""A headless Chromium, the system's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest

#: Without these Chromium looks for its maker's hosts, or needs a sandbox that root cannot have.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


OWN_ADDRESSES = tuple(f"http://{name}:" for name in ("localhost", "127.0.0.1", gethostname()))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser; without one, tests that need it are skipped, but not in CI.

    Not for the whole session: while it is there, the main thread has an event loop that runs.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no chromium: .ci/run should have installed it")
        pytest.skip("no chromium is installed: on Debian, apt install chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens pages; fails if one had an error, or asked another host for anything."""
    contexts, complaints = [], []

    def open_page(address: str, **options: Any) -> Any:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **options}
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", _note)
        page.on("request", lambda request: _check(request.url))
        page.goto(address)
        return page

    def _note(line: Any) -> None:
        # Not refusals, which the page deals with.
        if line.type == "error" and "Failed to load resource" not in line.text:
            complaints.append(f"{line.type}: {line.text}")

    def _check(url: str) -> None:
        if not url.startswith((*OWN_ADDRESSES, "data:", "blob:")):
            complaints.append(f"asked for {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
