"""The manifests: by the schemas of Kubernetes, and what has to hold between them and the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from core.config import Settings
from core.keys import Kind
from harness.admin import PORT, Admin
from harness.redis_server import RedisClient
from harness.workers import StartWorker
from tests.deploy.tools import DEPLOY, documents, load, run

MANIFESTS = DEPLOY / "kubernetes"
LAYOUTS = ("host-ipc", "one-pod")
KEDA = "keda.sh/v1alpha1"
KEDA_SCHEMA = Path(__file__).with_name("keda.schema.json")

#: The oldest version that has what the manifests use (sidecars), and the newest that is known.
VERSIONS = ("1.29", "1.37")


def render(layout: str) -> list[Any]:
    """What a layout comes to."""
    return documents(run("kubectl", "kustomize", MANIFESTS / layout))


def of_kind(manifests: list[Any], kind: str) -> Any:
    [found] = [one for one in manifests if one["kind"] == kind]
    return found


def pod_of(manifests: list[Any]) -> Any:
    return of_kind(manifests, "Deployment")["spec"]["template"]["spec"]


def containers(pod: Any) -> dict[str, Any]:
    return {
        one["name"]: one for key in ("initContainers", "containers") for one in pod.get(key, [])
    }


@pytest.fixture(scope="module")
def base() -> list[Any]:
    names = load("kubernetes/base/kustomization.yaml")["resources"]
    return [load(f"kubernetes/base/{name}") for name in names]


@pytest.fixture(scope="module")
def worker(base: list[Any]) -> Any:
    return containers(pod_of(base))["worker"]


@pytest.fixture(scope="module")
def scaled() -> Any:
    return load("kubernetes/keda/scaledobject.yaml")["spec"]


# -- schemas ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_the_base_follows_the_schema(base: list[Any], version: str) -> None:
    for manifest in base:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_follows_the_schema(layout: str, version: str) -> None:
    for manifest in render(layout):
        if manifest["apiVersion"] != KEDA:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_finds_what_is_wrong(base: list[Any]) -> None:
    wrong = yaml.safe_load(yaml.safe_dump(of_kind(base, "Deployment")))
    pod_of([wrong])["terminationGracePeriod"] = 45
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_what_keda_reads_follows_its_schema(tmp_path: Path) -> None:
    paths = [MANIFESTS / "keda" / name for name in ("scaledobject.yaml", "authentication.yaml")]
    run("check-jsonschema", "--schemafile", KEDA_SCHEMA, *paths)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(paths[0].read_text().replace("listLength:", "length:"))
    assert "listLength" in run("check-jsonschema", "--schemafile", KEDA_SCHEMA, wrong, status=1)


def test_every_file_belongs_to_a_layout() -> None:
    for folder in ("base", "keda", *LAYOUTS):
        parts = load(f"kubernetes/{folder}/kustomization.yaml")
        named = {*parts["resources"], *(patch["path"] for patch in parts.get("patches", []))}
        files = {path.name for path in (MANIFESTS / folder).iterdir()} - {"kustomization.yaml"}
        assert {name for name in named if not name.startswith("../")} == files, folder


# -- the worker ---------------------------------------------------------------------------------


def test_the_worker_gets_a_gpu_and_no_setting_that_it_does_not_know(worker: Any) -> None:
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    known = {name.upper() for name in Settings.model_fields}
    for layout in LAYOUTS:
        set_here = containers(pod_of(render(layout)))["worker"]["env"]
        assert {one["name"] for one in set_here} <= known
    # Neither may Kubernetes invent any: a service named admin would set ADMIN_PORT.
    assert pod_of(render("host-ipc"))["enableServiceLinks"] is False


def test_probes_ask_what_the_worker_answers(
    worker: Any, start_worker: StartWorker, client: RedisClient
) -> None:
    [port] = worker["ports"]
    assert port["containerPort"] == Settings.model_fields["admin_port"].default
    assert {"name": "ADMIN_HOST", "value": "0.0.0.0"} in worker["env"]  # they come from outside
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = worker[probe]["httpGet"]
        assert asked["port"] == port["name"]
        assert admin.ask(asked["path"], Host="10.1.2.3:5262").status == 200
        paths[probe] = asked["path"]
    # An outage of Redis makes a worker unready; a new process would not fix it.
    assert paths == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }


def test_the_worker_stops_by_itself_before_it_is_killed(worker: Any) -> None:
    [grace] = [one["value"] for one in worker["env"] if one["name"] == "SHUTDOWN_GRACE_S"]
    for layout in LAYOUTS:
        assert pod_of(render(layout))["terminationGracePeriodSeconds"] >= int(grace) + 10
    assert "lifecycle" not in worker  # nothing takes of that time before the signal


def test_everything_that_selects_pods_selects_the_workers(base: list[Any]) -> None:
    deployment = of_kind(base, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    for selected in (
        deployment["selector"]["matchLabels"],
        of_kind(base, "Service")["spec"]["selector"],
        of_kind(base, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(base, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selected
        assert selected.items() <= labels.items()


def test_the_network_lets_through_redis_dns_and_prometheus_only(base: list[Any]) -> None:
    policy = of_kind(base, "NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["admin"]
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {6379, 53}
    assert all(rule.get("from") or rule.get("to") for rule in policy["ingress"] + policy["egress"])


def test_a_drained_node_can_always_be_emptied(base: list[Any]) -> None:
    budget = of_kind(base, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


def test_a_rollout_needs_no_spare_gpu(base: list[Any]) -> None:
    strategy = of_kind(base, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 0, "maxUnavailable": 1}


def test_the_secret_is_the_same_everywhere_and_not_in_here(worker: Any) -> None:
    references = [one["valueFrom"]["secretKeyRef"] for one in worker["env"] if "valueFrom" in one]
    references += load("kubernetes/keda/authentication.yaml")["spec"]["secretTargetRef"]
    assert {one["name"] for one in references} == {"inpainting-redis"}
    told = (DEPLOY / "README.md").read_text()
    for one in references:
        assert f"--from-literal={one['key']}=" in told
    assert not [path for path in MANIFESTS.rglob("*.yaml") if "kind: Secret" in path.read_text()]


# -- shared memory ------------------------------------------------------------------------------


def test_with_host_ipc_the_workers_are_held_to_one_node() -> None:
    pod = pod_of(render("host-ipc"))
    assert pod["hostIPC"] is True
    assert set(pod["nodeSelector"]) == {"kubernetes.io/hostname"}
    assert "volumes" not in pod


def test_in_one_pod_all_containers_have_the_same_memory_for_pictures() -> None:
    pod = pod_of(render("one-pod"))
    [volume] = pod["volumes"]
    assert volume["emptyDir"]["medium"] == "Memory"
    assert set(containers(pod)) == {"worker", "pipeline"}
    for container in containers(pod).values():
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]
    assert "hostIPC" not in pod


def test_in_one_pod_the_worker_stops_after_the_program_that_waits_for_it() -> None:
    pod = pod_of(render("one-pod"))
    [sidecar] = pod["initContainers"]
    assert sidecar["name"] == "worker"
    assert sidecar["restartPolicy"] == "Always"


def test_in_one_pod_the_queues_are_the_pods_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "inpainting-worker-5b8f")
    env = containers(pod_of(render("one-pod")))["worker"]["env"]
    settings = Settings(
        _env_file=None, **{one["name"].lower(): one["value"] for one in env if "value" in one}
    )
    for kind in Kind:
        assert settings.queue(kind) == f"lama_inference:{kind}tasks@inpainting-worker-5b8f"
    assert not [one for one in render("one-pod") if one["apiVersion"] == KEDA]


# -- scaling ------------------------------------------------------------------------------------


#: Of each worker: waiting long, short, in hand, and waiting for another attempt.
Hands = dict[str, tuple[int, int, int, int]]


def work_and_busy(scaled: Any, hands: Hands, expected: list[list[float]], tmp_path: Path) -> None:
    """Have promtool compare what the ScaledObject asks Prometheus for."""
    names = (
        'inpainting_queue_backlog_jobs{{queue="long", {0}}}',
        'inpainting_queue_backlog_jobs{{queue="short", {0}}}',
        "inpainting_jobs_in_flight{{{0}}}",
        "inpainting_delayed_jobs{{{0}}}",
    )
    series = [
        {"series": name.format(f'job="inpainting", instance="{worker}"'), "values": str(value)}
        for worker, values in hands.items()
        for name, value in zip(names, values, strict=True)
    ]
    triggers = [one["metadata"] for one in scaled["triggers"] if one["type"] == "prometheus"]
    cases = [
        {
            "expr": trigger["query"],
            "eval_time": "0m",
            "exp_samples": [{"labels": "{}", "value": value} for value in values],
        }
        for trigger, values in zip(triggers, expected, strict=True)
    ]
    path = tmp_path / "test.yml"
    test = {"interval": "1m", "input_series": series, "promql_expr_test": cases}
    path.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    run("promtool", "test", "rules", path)


def test_jobs_in_hand_count_like_waiting_ones(scaled: Any, tmp_path: Path) -> None:
    # Every worker reports the whole queue, but only its own jobs.
    hands: Hands = {"a": (3, 2, 4, 6), "b": (3, 2, 1, 6)}
    work_and_busy(scaled, hands, [[3 + 2 + 4 + 1 + 6], [2]], tmp_path)


def test_the_last_busy_worker_keeps_the_scale_from_zero(scaled: Any, tmp_path: Path) -> None:
    work_and_busy(scaled, {"a": (0, 0, 1, 0), "b": (0, 0, 0, 0)}, [[1], [1]], tmp_path)
    work_and_busy(scaled, {"a": (0, 0, 0, 0), "b": (0, 0, 0, 0)}, [[0], []], tmp_path)
    for trigger in scaled["triggers"]:  # above 0, the default, a trigger is active
        assert not {"activationThreshold", "activationListLength"} & set(trigger["metadata"])


def test_no_fewer_workers_are_asked_for_than_are_busy(scaled: Any) -> None:
    work, busy = (one["metadata"] for one in scaled["triggers"] if one["type"] == "prometheus")
    assert busy["threshold"] == "1"
    sizes = [Settings.model_fields[f"inpainting_batch_size_{kind}"].default for kind in Kind]
    assert int(work["threshold"]) <= 2 * min(sizes)  # the batch in hand, and the one after it
    assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"] == {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }


def test_a_waiting_job_wakes_the_first_worker(scaled: Any) -> None:
    lists = [one["metadata"]["listName"] for one in scaled["triggers"] if one["type"] == "redis"]
    settings = Settings(_env_file=None)
    assert lists == [settings.queue(kind) for kind in Kind]
    set_here = {one["name"] for one in containers(pod_of(render("host-ipc")))["worker"]["env"]}
    assert not {name for name in set_here if name.endswith("_TASKS_QUEUE")}
    assert scaled["scaleTargetRef"]["name"] == "inpainting-worker"
    assert "replicas" not in load("kubernetes/base/worker.yaml")["spec"]  # KEDA's to say
