"""What the README promises and a program can check."""

from __future__ import annotations

import re

from core import keys
from core.config import Settings
from harness import ROOT
from harness.redis_server import RedisClient, RedisServer
from harness.wire import Pipeline, page
from harness.workers import StartWorker

README = (ROOT / "README.md").read_text()


def test_every_setting_is_listed_with_its_meaning() -> None:
    listed = dict(re.findall(r"^\| `([A-Z_0-9]+)` \| .* \| (.*) \|$", README, re.MULTILINE))
    meanings = {name.upper(): field.description for name, field in Settings.model_fields.items()}
    assert listed == meanings


def test_every_default_is_the_one_listed() -> None:
    for name, field in Settings.model_fields.items():
        (listed,) = re.findall(rf"^\| `{name.upper()}` \| `(.*?)` \|", README, re.MULTILINE)
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
            default = (str(default) or "none").removeprefix(f"{ROOT}/")
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
        assert f"`{key}`" in README, key


def test_the_acl_suffices(
    start_worker: StartWorker, pipeline: Pipeline, client: RedisClient, server: RedisServer
) -> None:
    (rules,) = re.findall(r"ACL SETUSER (inpainting .*?)\n\n", README, re.DOTALL)
    client.execute_command("ACL", "SETUSER", *rules.replace("\\\n", " ").split())
    url = server.url.replace("//", "//inpainting:password@")
    try:
        worker = start_worker(REDIS_URL=url, REAP_INTERVAL_S=0.1)
        for kind in ("long", "short"):
            request = pipeline.submit(*page(60, 90, 1), kind, canvas=(64, 96))
            assert pipeline.fetch(request).shape == (60, 90, 3)
        client.rpush("lama_inference:longtasks", "bad")
        worker.wait_for_line("is dead")
        assert worker.stop() == 0
        assert "NOPERM" not in worker.output
        assert "refuses" not in worker.output
    finally:
        client.execute_command("ACL", "DELUSER", "inpainting")
