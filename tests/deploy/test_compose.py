"""The two compose files: by their schema, and what has to hold between them and the worker."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis

from core.config import Settings
from harness import ROOT
from harness.redis_server import RedisServer
from tests.deploy.tools import DEPLOY, load, run

PIPELINE = "pipeline/docker-compose.yml"
FILES = (ROOT / "docker-compose.yml", DEPLOY / PIPELINE)
WORKERS = ("worker-0", "worker-1", "worker-cpu")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(load(PIPELINE)["services"])


@pytest.mark.parametrize("path", FILES)
def test_compose_files_follow_the_compose_specification(path: Any) -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_the_schema_finds_what_is_wrong(tmp_path: Any) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text((DEPLOY / PIPELINE).read_text().replace("restart:", "restarts:"))
    said = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", wrong, status=1)
    assert "restarts" in said


@pytest.mark.parametrize("path", FILES)
def test_the_log_of_every_service_is_limited(path: Any) -> None:
    for name, service in load(path)["services"].items():
        options = service["logging"]["options"]
        assert re.fullmatch(r"\d+m", options["max-size"]), name
        assert int(options["max-file"]) > 1, name


def test_workers_get_no_setting_that_they_do_not_know(services: dict[str, Any]) -> None:
    known = {name.upper() for name in Settings.model_fields}
    for name in (*WORKERS, "submit", "submit-cpu"):
        assert set(services[name]["environment"]) <= known, name


def test_workers_stop_by_themselves_before_they_are_killed(services: dict[str, Any]) -> None:
    grace_s = Settings.model_fields["shutdown_grace_s"].default
    for name in WORKERS:
        assert float(services[name]["stop_grace_period"].removesuffix("s")) > grace_s


def test_all_that_touch_pictures_share_one_memory(services: dict[str, Any]) -> None:
    assert {services[name]["ipc"] for name in (*WORKERS, "submit", "submit-cpu")} == {"host"}


def test_a_picture_is_sent_with_the_image_of_the_workers_profile(services: dict[str, Any]) -> None:
    for sender, worker in (("submit", "worker-0"), ("submit-cpu", "worker-cpu")):
        for what in ("image", "build"):
            assert services[sender][what] == services[worker][what], sender
        assert services[sender]["volumes"] == ["./pictures:/pictures"]
        assert services[sender]["environment"]["REDIS_URL"] == "redis://redis:6379"


def test_weights_come_from_a_folder_and_by_default_are_the_included_ones(
    services: dict[str, Any],
) -> None:
    for name in WORKERS:
        [mount] = services[name]["volumes"]
        found = re.fullmatch(r"\$\{WEIGHTS:-(.*)\}:(/\w+):ro", mount)
        assert found, mount
        path = services[name]["environment"]["LAMA_CHECKPOINT_PATH"]
        assert path.startswith(f"{found[2]}/")
        assert (DEPLOY / "pipeline" / found[1] / path.removeprefix(f"{found[2]}/")).is_file()


def test_every_port_is_in_the_table_of_its_page() -> None:
    for path, page in (
        (DEPLOY / PIPELINE, DEPLOY / "README.md"),
        (ROOT / "docker-compose.yml", ROOT / "docs/deployment.md"),
    ):
        listed = dict(re.findall(r"^\| (\d+) \| .* \| `(\w+_PORT\w*)` \|$", page.read_text(), re.M))
        asked = dict(re.findall(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}", path.read_text()))
        assert listed == {port: name for name, port in asked.items()}


def test_every_gpu_has_one_worker(services: dict[str, Any]) -> None:
    taken = []
    for name in ("worker-0", "worker-1"):
        [device] = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        taken += device["device_ids"]
    assert taken == ["0", "1"]
    assert "deploy" not in services["worker-cpu"]
    assert services["worker-cpu"]["environment"]["USE_CUDA"] == "0"


def test_no_two_services_want_the_same_port_of_the_host_and_none_is_open_to_others(
    services: dict[str, Any],
) -> None:
    wanted = {
        name: re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-(\d+)\}:\d+", port)
        for name, service in services.items()
        if name != "worker-cpu"  # in place of worker-0
        for port in service.get("ports", [])
    }
    assert all(wanted.values()), wanted
    assert len({match[1] for match in wanted.values() if match}) == len(wanted) == 5


def test_redis_keeps_and_tells_what_the_pipeline_relies_on(services: dict[str, Any]) -> None:
    command = " ".join(services["redis"]["command"])
    for option in (
        "--appendonly yes",
        "--maxmemory-policy noeviction",
        "--notify-keyspace-events Eh",
    ):
        assert option in command
    assert re.search(r"--maxmemory \$\{REDIS_MAXMEMORY:-\d+mb\}", command)
    assert services["redis"]["volumes"] == ["redis-data:/data"]


def test_redis_takes_that_command(services: dict[str, Any]) -> None:
    words = [str(word) for word in services["redis"]["command"][1:]]
    options = {
        name.removeprefix("--"): re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value)
        for name, value in zip(words[::2], words[1::2], strict=True)
    }
    with RedisServer(options=options) as server, redis.Redis(port=server.port) as client:
        told = {name: client.config_get(name)[name] for name in options}
    assert told.pop("maxmemory") == str(512 << 20)
    assert set(told.pop("notify-keyspace-events")) == set("Eh")
    assert told == {name: options[name] for name in told}


def test_mounted_files_exist(services: dict[str, Any]) -> None:
    mounts = [
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if volume.startswith("../")
    ]
    assert len(mounts) == 4
    for mount in mounts:
        assert (DEPLOY / "pipeline" / mount).exists(), mount


def test_prometheus_looks_where_the_workers_are(services: dict[str, Any]) -> None:
    [scrape] = load("prometheus/prometheus.yml")["scrape_configs"]
    [found] = scrape["dns_sd_configs"]
    for name in WORKERS:
        assert services[name]["networks"]["default"]["aliases"] == found["names"]
    assert found["port"] == Settings.model_fields["admin_port"].default
    for name in WORKERS:
        assert services[name]["environment"]["ADMIN_HOST"] == "0.0.0.0"  # not from its own host


def test_grafana_finds_its_source_and_its_dashboard(services: dict[str, Any]) -> None:
    [source] = load("grafana/datasource.yml")["datasources"]
    assert source["url"].removeprefix("http://").removesuffix(":9090") in services
    assert (
        source["jsonData"]["timeInterval"]
        == (load("prometheus/prometheus.yml")["global"]["scrape_interval"])
    )
    targets = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    [provider] = load("grafana/provider.yml")["providers"]
    assert home in targets
    assert home.startswith(provider["options"]["path"] + "/")
