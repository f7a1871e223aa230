"""Hostile messages and segments do a running worker no harm. What is sent: chaos/hostile/."""

from __future__ import annotations

from pathlib import Path

from chaos.hostile.siege import siege
from harness.redis_server import RedisServer


def test_a_worker_under_attack_lives_on_and_does_every_good_job(
    server: RedisServer, tmp_path: Path, shm_baseline: None
) -> None:
    with siege(server, tmp_path, seed=1) as attack:
        report = attack.run(500)
    assert not report.wrong, "\n".join(report.wrong)
    assert report.good >= 50
    assert report.delivered >= 50
    assert sum(report.reasons.values()) >= 200
    assert len(report.reasons) >= 10
