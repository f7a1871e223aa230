"""What the README and the pages of docs promise and a program can check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core import keys
from core.commands.settings import GROUPS, page
from core.config import Settings
from harness import ROOT
from harness.redis_server import RedisClient, RedisServer
from harness.wire import Pipeline
from harness.wire import page as picture
from harness.workers import StartWorker

SETTINGS = (ROOT / "docs/settings.md").read_text()
CONTRACT = (ROOT / "docs/contract.md").read_text()
SECURITY = (ROOT / "docs/redis-and-security.md").read_text()

PAGES = [
    ROOT / "README.md",
    ROOT / "README.ko.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "deploy/README.md",
]
EACH_PAGE = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))

#: Words that the documents do without: they are old, or have plainer ones.
AVOIDED = re.compile(
    r"\b(mend|mends|whomever|whoever|as ever|by lot|dear|dearer|shall)\b", re.IGNORECASE
)


def without_code(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```$|^ {4,}.*?$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_of_settings_is_what_the_command_prints() -> None:
    assert page() == SETTINGS, "python worker.py settings --markdown > docs/settings.md"
    assert [first for first, _, _ in GROUPS] == [
        name for name in Settings.model_fields if name in {first for first, _, _ in GROUPS}
    ]


def test_every_setting_is_listed_with_its_meaning() -> None:
    listed = dict(re.findall(r"^\| `([A-Z_0-9]+)` \| .* \| (.*) \|$", SETTINGS, re.MULTILINE))
    meanings = {name.upper(): field.description for name, field in Settings.model_fields.items()}
    assert listed == meanings


def test_every_default_is_the_one_listed() -> None:
    for name, field in Settings.model_fields.items():
        (listed,) = re.findall(rf"^\| `{name.upper()}` \| `(.*?)` \|", SETTINGS, re.MULTILINE)
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(map(str, default)) or "none"
        elif isinstance(default, bool):
            default = int(default)
        elif name == "shm_file_mode":
            default = f"{default:04o}"
        elif isinstance(default, float):
            default = f"{default:g}" if default < 1e6 else int(default)
        else:
            default = ("none" if default is None else str(default) or "none").removeprefix(
                f"{ROOT}/"
            )
        assert listed == str(default), name


def test_every_redis_key_is_listed() -> None:
    made = [
        keys.processing("{worker}", keys.Kind.LONG).replace("long", "{long,short}"),
        keys.claims("{worker}"),
        keys.cleanup("{worker}"),
        keys.delayed("{queue}"),
        keys.heartbeat("{worker}"),
        keys.workers("{namespace}"),
        keys.reaper("{namespace}"),
        keys.segments("{namespace}"),
        keys.result("{request_id}"),
        keys.ATTEMPTS,
        keys.SUBMISSIONS,
        keys.CREWS,
        keys.DEAD,
    ]
    for key in made:
        assert f"`{key}`" in CONTRACT, key


def test_the_acl_suffices(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, server: RedisServer
) -> None:
    (rules,) = re.findall(r"ACL SETUSER (inpainting .*?)\n\n", SECURITY, re.DOTALL)
    client.execute_command("ACL", "SETUSER", *rules.replace("\\\n", " ").split())
    url = server.url.replace("//", "//inpainting:password@")
    try:
        worker = start_worker(REDIS_URL=url, REAP_INTERVAL_S=0.1)
        for kind in ("long", "short"):
            request = pipeline.submit(*picture(60, 90, 1), kind, canvas=(64, 96))
            assert pipeline.fetch(request).shape == (60, 90, 3)
        client.rpush("lama_inference:longtasks", "bad")
        worker.wait_for_line("is dead")
        assert worker.stop() == 0
        assert "NOPERM" not in worker.output
        assert "refuses" not in worker.output
    finally:
        client.execute_command("ACL", "DELUSER", "inpainting")


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_bytes()
    assert len(text) <= 9000
    assert text.count(b"\n") <= 200
    assert (ROOT / "docs/demo.jpg").stat().st_size < 120_000
    assert (ROOT / "docs/status-page.png").stat().st_size < 250_000


def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    for path in sorted((ROOT / "docs").glob("*.md")):
        assert f"]({path.relative_to(ROOT)}" in text, path.name


@EACH_PAGE
def test_every_link_leads_to_a_file_and_a_heading_that_exist(path: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text()))
    assert targets
    for target in targets:
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        leads_to = (path.parent / name).resolve() if name else path
        assert leads_to.exists(), target
        if anchor:
            assert anchor in anchors(leads_to), target


@EACH_PAGE
def test_words_are_plain(path: Path) -> None:
    assert not AVOIDED.findall(path.read_text())
