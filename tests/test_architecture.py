"""docs/architecture.md names what there is, and all of it."""

from __future__ import annotations

import re

from core import keys
from core.config import Settings
from core.faults import Fault
from harness import ROOT

TEXT = (ROOT / "docs/architecture.md").read_text()


def test_every_point_at_which_a_worker_can_die_has_its_row() -> None:
    cells = [re.split(r"\s*\|\s*", row)[-3] for row in TEXT.splitlines() if row.count("|") > 4]
    assert set(re.findall(r"`([a-z-]+)`", " ".join(cells))) == set(Fault)


def test_every_script_is_named_and_there_is_no_other() -> None:
    scripts = {path.name for path in (ROOT / "core/broker/lua").glob("*.lua")}
    assert set(re.findall(r"\b\w+\.lua\b", TEXT)) == scripts


def test_every_key_is_named() -> None:
    text = TEXT.replace("#58;", ":")  # a colon, where Mermaid would take one for its own
    for key in (
        keys.processing("{worker}", keys.Kind.LONG).replace("long", "{kind}"),
        keys.cleanup("{worker}"),
        keys.claims("{worker}"),
        keys.delayed("{queue}"),
        keys.heartbeat("{worker}"),
        keys.workers("{namespace}"),
        keys.reaper("{namespace}"),
        keys.segments("{namespace}"),
        keys.result("…"),
        keys.ATTEMPTS,
        keys.SUBMISSIONS,
        keys.CREWS,
        keys.DEAD,
    ):
        assert key in text, key


def test_settings_and_files_that_it_names_exist() -> None:
    for name in re.findall(r"`([A-Z]+_[A-Z_]+)[`=]", TEXT):
        assert name == "FAULT_POINT" or name.lower() in Settings.model_fields, name
    for path in re.findall(r"(?:core|lama)/[\w./]*", TEXT):
        assert (ROOT / path).exists(), path
