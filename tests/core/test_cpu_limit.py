"""A container's share of the processor, and the threads that are worth having with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core.machine import cpu_limit
from lama.limits import bound_threads


class Groups:
    """`/proc/self/cgroup` and `/sys/fs/cgroup`, made up."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.membership = root / "cgroup"
        self.membership.write_text("")

    def put(self, name: str, content: str) -> None:
        path = self.root / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")

    def limit(self, *lines: str) -> float | None:
        self.membership.write_text("".join(f"{line}\n" for line in lines))
        return cpu_limit(self.membership, self.root / "mounted")


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


@pytest.mark.parametrize(("said", "limit"), [("150000 100000", 1.5), ("max 100000", None)])
def test_a_container_of_version_2_finds_its_limit(
    groups: Groups, said: str, limit: float | None
) -> None:
    groups.put("cpu.max", said)
    assert groups.limit("0::/") == limit


def test_the_smallest_limit_of_a_group_and_those_around_it_holds(groups: Groups) -> None:
    groups.put("pods/cpu.max", "200000 100000")
    groups.put("pods/one/cpu.max", "max 100000")
    groups.put("pods/one/main/cpu.max", "800000 100000")
    assert groups.limit("0::/pods/one/main") == 2


@pytest.mark.parametrize(("quota", "limit"), [("50000", 0.5), ("-1", None)])
def test_a_container_of_version_1_finds_its_limit_though_its_path_is_the_hosts(
    groups: Groups, quota: str, limit: float | None
) -> None:
    groups.put("cpu/cpu.cfs_quota_us", quota)
    groups.put("cpu/cpu.cfs_period_us", "100000")
    assert groups.limit("7:memory:/", "4:cpu,cpuacct:/docker/0a1b", "0::/") == limit


@pytest.mark.parametrize("said", ["", "none", "100000 0", "1 2 3"])
def test_what_is_no_limit_is_none(groups: Groups, said: str) -> None:
    groups.put("cpu.max", said)
    assert groups.limit("0::/") is None


def test_groups_above_what_is_mounted_are_not_looked_for_elsewhere(groups: Groups) -> None:
    groups.put("cpu.max", "300000 100000")
    (groups.root / "cpu.max").write_text("100000 100000\n")
    assert groups.limit("0::/../outer") == 3


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path / "none", tmp_path) is None


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield monkeypatch
    torch.set_num_threads(before)


@pytest.mark.parametrize(("limit", "threads"), [(0.5, 1), (2.0, 2), (2.5, 3), (9.0, 4), (None, 4)])
def test_torch_gets_a_thread_for_each_core_that_there_is_time_for(
    four_threads: pytest.MonkeyPatch, limit: float | None, threads: int
) -> None:
    bound_threads(limit)
    assert torch.get_num_threads() == threads


def test_a_number_of_threads_that_the_operator_gives_stays(
    four_threads: pytest.MonkeyPatch,
) -> None:
    four_threads.setenv("OMP_NUM_THREADS", "4")
    bound_threads(1.0)
    assert torch.get_num_threads() == 4
