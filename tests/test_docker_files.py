"""What can be said about the Docker files without an engine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.config import Settings
from tests.deploy.tools import run

ROOT = Path(__file__).resolve().parent.parent
WORKERS = ("worker", "worker-1", "worker-cpu")
INSTALL = ROOT / "deploy/install-dependencies.sh"

#: Stands in for pip: records what it was asked for, and "installs" torch.
PIP = """
import os, sys
from pathlib import Path

BINARIES = ("bin/test_api", "bin/FileStoreTest", "bin/protoc-3.13", "bin/torch_shm_manager")
arguments = sys.argv[1:]
if arguments[0] == "install":
    def content(option):
        return Path(arguments[arguments.index(option) + 1]).read_text().split()
    here = Path(__file__).parent
    if "-r" in arguments:
        print("ASKED FOR", *content("-r"), "WITHIN", *content("-c"))
    else:
        print("ASKED FOR", *arguments[1:])
        for name in ("__init__.py", "include/a.h", "test/a_test", *BINARIES):
            (file := here.parent / "torch" / name).parent.mkdir(exist_ok=True, parents=True)
            file.touch()
        (here.parent / "torch/__init__.py").write_text("__version__ = '2.13.0+cpu'")
        metadata = here.parent / "torch-2.13.0.dist-info/METADATA"
        metadata.parent.mkdir()
        metadata.write_text("Name: torch\\nVersion: 2.13.0\\n")
"""


def copied() -> list[str]:
    """The sources of the Dockerfile's COPY lines."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [
        source for line in lines if line.startswith("COPY ") for source in shlex.split(line)[1:-1]
    ]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return dict(compose["services"])


def install(tmp_path: Path, torch: str | None, **environment: str) -> tuple[int, list[str]]:
    """Run the script against a base with that torch; its status and the lines that matter."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    modules = tmp_path / "modules"
    (modules / "pip").mkdir(parents=True)
    (modules / "pip/__init__.py").touch()
    (modules / "pip/__main__.py").write_text(PIP)
    if torch is None:
        (modules / "torch.py").write_text("raise ImportError('there is no torch')")
    else:
        (modules / "torch.py").write_text(f"__version__ = {torch!r}")
        metadata = modules / f"torch-{torch}.dist-info/METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Name: torch\nVersion: {torch}\n")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("torch==2.13.0\nredis==8.1.0\n")
    done = subprocess.run(
        ["sh", str(INSTALL), str(requirements)],
        env={
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(modules),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=30,
    )
    marks = ("ASKED FOR", "install-dependencies.sh:")
    printed = (done.stdout + done.stderr).splitlines()
    return done.returncode, [line for line in printed if line.startswith(marks)]


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    assert run("hadolint", ROOT / "Dockerfile") == ""


def test_what_the_image_copies_exists_and_gets_past_dockerignore() -> None:
    ignored, *rules = (
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] not in ("#", "")
    )
    passed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert ignored == "*"
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") for name in passed), source
    assert passed == {name for name in passed if any(c.startswith(name) for c in copied())}


def test_base_without_torch_gets_the_pinned_one(tmp_path: Path) -> None:
    status, lines = install(tmp_path, None)
    assert status == 0
    assert lines[:2] == ["ASKED FOR torch==2.13.0", "ASKED FOR redis==8.1.0 WITHIN torch==2.13.0"]
    assert lines[2].endswith("torch 2.13.0+cpu (installed)")


def test_headers_and_tests_of_the_installed_torch_stay_out_of_the_image(tmp_path: Path) -> None:
    install(tmp_path, None)
    torch = tmp_path / "modules/torch"
    left = {str(path.relative_to(torch)) for path in torch.rglob("*") if path.is_file()}
    assert left == {"__init__.py", "bin/torch_shm_manager"}  # torch starts that program


def test_torch_index_is_for_torch_alone(tmp_path: Path) -> None:
    _, lines = install(tmp_path, None, TORCH_INDEX_URL="https://wheels.example/cpu")
    assert lines[:2] == [
        "ASKED FOR --index-url https://wheels.example/cpu torch==2.13.0",
        "ASKED FOR redis==8.1.0 WITHIN torch==2.13.0",
    ]


@pytest.mark.parametrize("version", ["2.12.1+cu126", "2.9.0a0+nv25.10"])
def test_torch_of_the_base_is_kept(tmp_path: Path, version: str) -> None:
    status, lines = install(tmp_path, version)
    assert status == 0
    assert lines[0] == f"ASKED FOR redis==8.1.0 WITHIN torch=={version}"
    assert lines[1].endswith(f"torch {version} (the base image's)")


def test_base_with_too_old_a_torch_fails_in_one_line(tmp_path: Path) -> None:
    status, lines = install(tmp_path, "2.8.0+cu128")
    assert status == 1
    assert lines == [
        "install-dependencies.sh: the base image has torch 2.8.0+cu128; 2.9 or later is needed: "
        "choose another BASE_IMAGE"
    ]


def test_compose_sets_nothing_that_the_worker_does_not_know(services: dict[str, Any]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    for name in WORKERS:
        assert set(services[name]["environment"]) <= known


def test_compose_stops_a_worker_later_than_the_worker_stops_itself(
    services: dict[str, Any],
) -> None:
    grace_s = Settings.model_fields["shutdown_grace_s"].default
    for name in WORKERS:
        assert float(services[name]["stop_grace_period"].removesuffix("s")) > grace_s


def test_compose_shows_the_admin_port_to_its_own_host_only(services: dict[str, Any]) -> None:
    port = Settings.model_fields["admin_port"].default
    assert services["worker"]["ports"] == [f"127.0.0.1:${{STATUS_PORT:-{port}}}:{port}"]
    assert services["worker-cpu"]["ports"] == services["worker"]["ports"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"EXPOSE {port}\n" in dockerfile
    assert "ENV ADMIN_HOST=0.0.0.0\n" in dockerfile
    for name in WORKERS:
        assert services[name]["environment"]["ADMIN_HOST"] == "0.0.0.0"


def test_compose_gives_every_worker_the_hosts_shared_memory(services: dict[str, Any]) -> None:
    assert {services[name]["ipc"] for name in WORKERS} == {"host"}


def test_compose_gives_every_gpu_one_worker_and_every_worker_a_port(
    services: dict[str, Any],
) -> None:
    taken = []
    for name in ("worker", "worker-1"):
        [device] = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        taken += device["device_ids"]
    assert taken == ["0", "1"]
    assert services["worker"]["ports"] != services["worker-1"]["ports"]
    assert services["worker-1"]["profiles"] == ["second-gpu"]
    assert not services["worker-cpu"]["deploy"]
    assert services["worker-cpu"]["environment"]["USE_CUDA"] == "0"


def test_compose_redis_loses_and_evicts_no_job(services: dict[str, Any]) -> None:
    command = " ".join(services["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert services["redis"]["volumes"] == ["redis-data:/data"]
