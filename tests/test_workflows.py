"""What GitHub runs: by its schema, and what has to hold between it and the project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import ROOT
from tests.deploy.tools import run

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
COMPOSE = (ROOT / "docker-compose.yml", ROOT / "deploy/pipeline/docker-compose.yml")


def load(path: Path) -> dict[str, Any]:
    """A YAML file; a workflow's key `on`, which YAML takes for a truth value, is a text."""
    return {
        "on" if key is True else key: value
        for key, value in yaml.safe_load(path.read_text()).items()
    }


def values(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in a tree, each with the key that it is under."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from values(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from values(value, key)
    elif isinstance(node, str):
        yield key, node


def release() -> dict[str, Any]:
    return load(ROOT / ".github/workflows/release.yml")


def build_step() -> dict[str, Any]:
    (step,) = (
        step["with"]
        for step in release()["jobs"]["images"]["steps"]
        if step.get("uses", "").startswith("docker/build-push-action@")
    )
    return dict(step)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_follow_githubs_schema_and_end_by_themselves(path: Path) -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)
    run("check-jsonschema", "--builtin-schema", "custom.github-workflows-require-timeout", path)


def test_the_updates_of_dependencies_follow_their_schema() -> None:
    path = ROOT / ".github/dependabot.yml"
    run("check-jsonschema", "--builtin-schema", "vendor.dependabot", path)


def test_the_schema_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "ci.yml"
    wrong.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "run-on:"))
    said = run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", wrong, status=1)
    assert "run-on" in said


def test_a_change_runs_the_projects_own_checks_on_every_python() -> None:
    ci = load(ROOT / ".github/workflows/ci.yml")
    assert set(ci["on"]) == {"push", "pull_request", "workflow_call"}
    (job,) = ci["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    supported = re.search(r"Python (3\.\d+) to (3\.\d+)", (ROOT / "run").read_text())
    assert supported
    versions = job["strategy"]["matrix"]["python"]
    assert (versions[0], versions[-1]) == supported.groups()
    minors = [int(version.removeprefix("3.")) for version in versions]
    assert all(after == before + 1 for before, after in pairwise(minors))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit_with_its_version_beside_it(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"\./\S+|[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_may_read_the_code_and_only_the_images_may_write_packages(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        may = {"contents": "read", "packages": "write"} if name == "images" else None
        assert job.get("permissions") == may, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_file_that_a_workflow_names_exists(path: Path) -> None:
    named = []
    for key, text in values(load(path)["jobs"]):
        if key in ("file", "context", "cache-dependency-path"):
            named.append(text)
        elif key in ("run", "uses"):
            named += re.findall(r"(?<![\w/])\.{1,2}[\w-]*/[\w./-]+", text)
    assert named
    for name in named:
        assert (ROOT / name).exists() or list(ROOT.glob(name)), name


def test_a_release_is_built_of_what_passed_the_checks_and_says_what_it_is() -> None:
    jobs = release()["jobs"]
    assert jobs["images"]["needs"] == "check"
    assert jobs["check"]["uses"] == "./.github/workflows/ci.yml"
    assert "core.__version__" in str(jobs["images"]["steps"])
    step = build_step()
    assert step["push"] is True
    assert step["sbom"] is True
    assert step["provenance"] == "mode=max"
    dockerfile = (ROOT / "Dockerfile").read_text()
    for label in ("title", "description", "licenses"):
        assert f"org.opencontainers.image.{label}=" in dockerfile
        assert f"org.opencontainers.image.{label}=" in str(jobs["images"]["steps"])


def test_a_release_has_the_images_that_the_dockerfile_and_the_docs_name() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    given = {line.partition("=")[0] for line in build_step()["build-args"].splitlines()}
    assert given == arguments
    page = (ROOT / "docs/deployment.md").read_text()
    variants = release()["jobs"]["images"]["strategy"]["matrix"]["include"]
    default, *others = sorted(variants, key=lambda variant: not variant.get("is_default"))
    assert f"ARG BASE_IMAGE={default['base']}\n" in dockerfile
    assert "`0.1.0`, `latest`" in page
    assert {variant["variant"] for variant in others} == {"cuda12.6", "cpu"}
    for variant in others:
        assert f"BASE_IMAGE={variant['base']}" in dockerfile
        assert f"BASE_IMAGE={variant['base']}" in page
        assert f"`0.1.0-{variant['variant']}`, `{variant['variant']}`" in page


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.parent.name)
def test_compose_builds_a_worker_or_takes_a_released_one(path: Path) -> None:
    services = load(path)["services"]
    workers = {name: service for name, service in services.items() if name.startswith("worker")}
    assert len(workers) >= 2
    for name, service in workers.items():
        tag = "cpu" if name == "worker-cpu" else "latest"
        assert service["image"] == f"${{WORKER_IMAGE:-inpainting-worker}}:${{WORKER_TAG:-{tag}}}"
        assert service["build"]


def test_a_commits_hooks_run_linters_that_the_project_installs() -> None:
    (repository,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    wanted = (ROOT / "dev_requirements.txt").read_text()
    packages = {"ruff": "ruff", "lint-imports": "import-linter"}
    assert repository["repo"] == "local"
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    assert tools == set(packages)
    for package in packages.values():
        assert re.search(rf"^{package}==", wanted, re.MULTILINE)
