"""The manifest for Ray: a known shape, and the command and versions that are really there."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from bulk import command
from core.commands import _parser
from harness import ROOT
from tests.deploy.tools import load, run

JOB = load("ray/rayjob.yaml")
CLUSTER = JOB["spec"]["rayClusterSpec"]


def test_the_command_is_one_that_the_worker_knows() -> None:
    program, *arguments = shlex.split(JOB["spec"]["entrypoint"])[1:]
    assert program == "/app/worker.py"
    options = _parser([command]).parse_args(arguments)
    assert options.ray == "auto"
    assert options.input != options.output


def test_rays_version_is_the_one_that_is_installed() -> None:
    pinned = (ROOT / "ray_requirements.txt").read_text()
    assert f"ray[data]=={CLUSTER['rayVersion']}\n" in pinned


def test_networks_run_on_nodes_with_a_gpu_and_nothing_on_the_head() -> None:
    [group] = CLUSTER["workerGroupSpecs"]
    [container] = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    [head] = CLUSTER["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["image"] == container["image"]


def test_its_pods_follow_the_schema_of_kubernetes() -> None:
    import kubernetes_validate

    for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]):
        pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}}
        pod["spec"] = group["template"]["spec"]
        kubernetes_validate.validate(pod, "1.37", strict=True)
        pod["spec"]["container"] = []
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, "1.37", strict=True)
        del pod["spec"]["container"]


def test_the_image_is_built_from_files_that_docker_is_given() -> None:
    dockerfile = ROOT / "deploy/ray/Dockerfile"
    run("hadolint", "--ignore", "DL3006", "--ignore", "DL3013", "--ignore", "DL3042", dockerfile)
    allowed = dockerfile.with_name("Dockerfile.dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (\S+)", dockerfile.read_text(), re.MULTILINE):
        assert (ROOT / source).exists()
        assert f"!{source}" in allowed
