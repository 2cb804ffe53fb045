"""The chart deploy/helm/maskclip and the examples of deploy/kserve, without a cluster.

Each file of values/ is rendered. The program itself reads the settings that come of it, and runs with them.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from kinds import check

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
CHART = REPOSITORY / "deploy" / "helm" / "maskclip"
NAMES = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
PROGRAM = Path(os.environ["MASKCLIP_PROGRAM"])
SECRETS = {"MASKCLIP_SHARED__URL": "rediss://redis.example:6380/0"}
"""What the Secrets have that the values name."""
RULES = REPOSITORY / "docker" / "prometheus-rules.yml"
sys.path.insert(0, str(REPOSITORY / "tools" / "reliability"))
from server import Server  # noqa: E402

Objects = dict[str, dict[str, Any]]


def values(name: str) -> dict[str, Any]:
    return yaml.safe_load((HERE / "values" / f"{name}.yaml").read_text()) or {}


def render(given: dict[str, Any], release: str = "labels") -> Objects:
    """The objects of a release by their kinds; of several of a kind, each under KIND/NAME."""
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(given, name=release, namespace="vision")
    things = [one for path, text in texts.items() if path.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    kinds = [one["kind"] for one in things]
    return {one["kind"] if kinds.count(one["kind"]) == 1 else f"{one['kind']}/{one['metadata']['name']}": one for one in things}


def pods(objects: Objects) -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in objects.values() if "template" in one.get("spec", {})]


def container(objects: Objects) -> dict[str, Any]:
    (pod,) = pods(objects)
    return pod["containers"][0]


def settings(objects: Objects) -> dict[str, Any]:
    return yaml.safe_load(objects["ConfigMap"]["data"]["config.yaml"])


def refused(given: dict[str, Any]) -> str:
    with pytest.raises(helm_python.HelmError) as raised:
        render(given)
    return str(raised.value)


def own(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """The containers of a pod that run the program."""
    return [one for one in pod["containers"] + pod.get("initContainers", []) if re.fullmatch(r"maskclip|fetch-\d+", one["name"])]


def run(arguments: list[str], environment: dict[str, str], **more: Any) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MASKCLIP_")}
    return subprocess.run([PROGRAM, *arguments], env=own | environment, capture_output=True, text=True, timeout=300, **more)


def environment(one: dict[str, Any], config: Path) -> dict[str, str]:
    """The variables of a container, with the file of settings at another place."""
    variables = {entry["name"]: entry["value"] for entry in one["env"] if "value" in entry}
    if "MASKCLIP_CONFIG" in variables:
        variables["MASKCLIP_CONFIG"] = str(config)
    return variables


# Every rendering.


@pytest.mark.parametrize("name", NAMES)
def test_helm_has_nothing_against_it(name: str) -> None:
    report = helm_python.lint(CHART, values(name), strict=True, kube_version="v1.31.0")
    assert not report["errors"]
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_object_fits_the_schema_of_its_kind(name: str) -> None:
    objects = render(values(name))
    assert objects
    for one in objects.values():
        check(one)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_short_enough_for_the_longest_release(name: str) -> None:
    for one in render(values(name), release="r" * 53).values():
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", one["metadata"]["name"]), one["metadata"]["name"]


@pytest.mark.parametrize("name", NAMES)
def test_pods_are_restricted(name: str) -> None:
    for pod in pods(render(values(name))):
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in pod["containers"] + pod.get("initContainers", []):
            assert one["securityContext"]["allowPrivilegeEscalation"] is False
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert one["securityContext"]["readOnlyRootFilesystem"] is True
            assert one["resources"]["limits"]["memory"]
        for volume in pod["volumes"]:
            assert volume.keys() <= {"name", "configMap", "emptyDir", "secret", "persistentVolumeClaim"}


@pytest.mark.parametrize("name", NAMES)
def test_mounts_have_volumes(name: str) -> None:
    objects = render(values(name))
    claimed = {
        claim["metadata"]["name"]
        for one in objects.values()
        for claim in one.get("spec", {}).get("volumeClaimTemplates", [])
    }
    for pod in pods(objects):
        volumes = [volume["name"] for volume in pod["volumes"]]
        assert len(volumes) == len(set(volumes))
        for one in pod["containers"] + pod.get("initContainers", []):
            assert {mount["name"] for mount in one["volumeMounts"]} <= {*volumes, *claimed}


@pytest.mark.parametrize("name", NAMES)
def test_the_program_takes_the_settings(name: str, tmp_path: Path) -> None:
    objects = render(values(name))
    config = tmp_path / "config.yaml"
    config.write_text(objects["ConfigMap"]["data"]["config.yaml"])
    for one in [one for pod in pods(objects) for one in own(pod)]:
        secrets = {entry["name"]: SECRETS[entry["name"]] for entry in one["env"] if entry["name"] in SECRETS}
        done = run(["fetch", "--list"], environment(one, config) | secrets)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_what_the_image_sets_goes_not_before_the_settings(name: str) -> None:
    objects = render(values(name))
    config = settings(objects)
    variables = environment(container(objects), Path("config.yaml"))
    image = (REPOSITORY / "docker" / "Dockerfile").read_text()
    for variable, value in variables.items():
        if "__" in variable:
            section, key = variable.removeprefix("MASKCLIP_").lower().split("__")
            assert config[section][key] == value
    assert set(re.findall(r"MASKCLIP_\w+", image)) <= variables.keys()


# Single things.


def test_the_version_is_the_programs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.*)"$', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)
    assert version and chart["version"] == chart["appVersion"] == version[1]
    assert container(render({}))["image"] == f"maskclip:{version[1]}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"replica": 3},
        {"replicaCount": "3"},
        {"workload": "DaemonSet"},
        {"weights": {"source": "fetch"}},
        {"weights": {"source": "claim", "claim": "models", "fetch": ["ViT-B-16"]}},
        {"autoscaling": {"enabled": True}, "keda": {"enabled": True}},
        {"shared": {"url": "redis://redis", "urlSecret": "redis-address"}},
        {"image": {"digest": "9f86d081"}},
        {"config": {"server": {"listen": "0.0.0.0:80"}}},
        {"config": {"vocabulary": {"store_path": "/tmp/store"}}},
        {"label": {"enabled": True, "arguments": ["--format", "png"], "images": {"claim": "i"}, "labels": {"claim": "l"}}},
        {"label": {"images": {"path": "a/../.."}}},
        {"httpRoute": {"enabled": True}},
        {"ingress": {"enabled": True}},
        {"shared": None},
        {"shared": {"url": "redis://redis/name"}},
        {"shared": {"url": "redis://redis?protocol=resp3"}},
        {"livenessProbe": {"successThreshold": 2}},
        {"keda": {"fallback": {"replicas": 6}}},
    ],
    ids=json.dumps,
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    refused(wrong)


@pytest.mark.parametrize(
    "wrong, why",
    [
        ({"config": {"shared": {"url": "redis://redis"}}}, "config.shared.url is set: name Redis"),
        ({"shared": {"url": "redis://redis"}, "config": {"shared": {"password_file": "/x"}}}, "config.shared.password_file is set"),
        ({"shared": {"url": "redis://:secret@redis:6379"}}, "shared.url has a password"),
        ({"shared": {"url": "redis://redis:99999"}}, "a port above 65535"),
        ({"shared": {"url": "redis://redis", "caSecret": "redis-ca"}}, "shared.caSecret is of use with rediss:// alone"),
        ({"shared": {"passwordSecret": "redis"}}, "shared.passwordSecret is set, and neither"),
        ({"autoscaling": {"enabled": True, "minReplicas": 20}}, "autoscaling.minReplicas is 20, above maxReplicas, which is 10"),
        ({"keda": {"enabled": True, "minReplicas": 20}}, "keda.minReplicas is 20, above maxReplicas, which is 10"),
        (
            {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}, "limits": {"cpu": None}}},
            "resources.requests.cpu is not",
        ),
        ({"config": {"server": {"listen": "127.0.0.1:8080"}}}, "neither the probes nor the Service reach"),
        ({"config": {"server": {"listen": "[::1]:8080"}}}, "neither the probes nor the Service reach"),
        ({"config": {"server": {"listen": "0.0.0.0:99999"}}}, "no port is above 65535"),
        ({"podLabels": {"app.kubernetes.io/name": "other"}}, "podLabels has app.kubernetes.io/name"),
        ({"commonLabels": {"app.kubernetes.io/component": "other"}}, "commonLabels has app.kubernetes.io/component"),
        ({"podSecurityContext": {"runAsNonRoot": False}}, "podSecurityContext lets the server run as root"),
        ({"securityContext": {"runAsUser": 0}}, "securityContext lets the server run as root"),
        ({"config": {"models": [{"name": "ViT-B-16"}]}}, "config.models has ViT-B-16, whose weights are not part"),
        ({"config": {"models": "ViT-B-16"}}, "config.models has ViT-B-16, whose weights are not part"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value),
)
def test_values_that_cannot_work_together_are_refused_by_a_sentence(wrong: dict[str, Any], why: str) -> None:
    assert why in refused(wrong)


@pytest.mark.parametrize(
    "given",
    [
        {"shared": {"url": "rediss://maskclip@[fd00::1]:6380/2", "caSecret": "redis-ca"}},
        {"shared": {"url": "redis://redis"}},
        {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}},
        {"autoscaling": {"minReplicas": 20}},
        {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
        {"config": {"models": ["demo", {"name": "demo-vit"}, {"name": "/srv/students/streets"}]}},
        {"config": {"model": {"folder": "/models"}, "models": [{"name": "ViT-B-16"}]}},
        {"label": {"images": {"path": "2026/streets/"}}},
    ],
    ids=json.dumps,
)
def test_values_that_can_work_are_not(given: dict[str, Any]) -> None:
    render(given)


def test_the_scalers_behaviour_and_what_keda_does_without_prometheus_are_values() -> None:
    scaled = render(values("keda"))["ScaledObject"]["spec"]
    assert scaled["fallback"] == values("keda")["keda"]["fallback"]
    assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == values("keda")["keda"]["behavior"]
    own = render(values("hpa-ingress"))["HorizontalPodAutoscaler"]["spec"]["behavior"]
    assert own.keys() == {"scaleUp", "scaleDown"}
    other = {"scaleDown": {"stabilizationWindowSeconds": 60}}
    given = {"autoscaling": {"enabled": True, "behavior": other}}
    assert render(given)["HorizontalPodAutoscaler"]["spec"]["behavior"] == other
    assert "fallback" not in render({"keda": {"enabled": True}})["ScaledObject"]["spec"]


def test_helm_test_reaches_the_service_and_no_other_pod_is_taken_for_its_own() -> None:
    objects = render(values("hpa-ingress") | {"service": {"port": 8000}})
    pod, service, policy = objects["Pod"], objects["Service"], objects["NetworkPolicy"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (one,) = pod["spec"]["containers"]
    assert one["args"][:3] == ["health", "--listen", f"{service['metadata']['name']}:8000"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] and one["securityContext"]["readOnlyRootFilesystem"]
    labels = pod["metadata"]["labels"]
    assert not service["spec"]["selector"].items() <= labels.items()
    assert not objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    # It may connect to the server, and its own connections are nobody's to restrict.
    (rule,) = policy["spec"]["ingress"]
    assert any(peer.get("podSelector", {}).get("matchLabels", {"": ""}).items() <= labels.items() for peer in rule["from"])
    (expression,) = policy["spec"]["podSelector"]["matchExpressions"]
    assert labels[expression["key"]] not in expression["values"]
    for name in ("default", "label"):
        (template,) = [one["spec"]["template"] for one in render(values(name)).values() if "template" in one.get("spec", {})]
        assert template["metadata"]["labels"][expression["key"]] in expression["values"]
    assert "Pod" not in render(values("label"))


def test_probes_ask_routes_of_the_server_that_need_no_key() -> None:
    paths = yaml.safe_load((REPOSITORY / "openapi.yaml").read_text())["paths"]
    one = container(render(values("keys-httproute")))
    (port,) = one["ports"]
    for kind, path in [("startup", "/health/live"), ("liveness", "/health/live"), ("readiness", "/health/ready")]:
        asked = one[f"{kind}Probe"]["httpGet"]
        assert (asked["path"], asked["port"], asked["scheme"]) == (path, port["name"], "HTTPS")
        assert not paths[path]["get"].get("security")


def test_one_port_leads_from_the_service_to_the_server() -> None:
    objects = render({"config": {"server": {"listen": "[::]:9000"}}, "service": {"port": 8000}})
    one = container(objects)
    assert one["ports"] == [{"name": "http", "containerPort": 9000, "protocol": "TCP"}]
    (port,) = objects["Service"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (8000, "http")
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        objects["Service"]["spec"]["selector"],
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector and selector.items() <= labels.items()


def test_a_pod_has_time_to_end() -> None:
    objects = render({})
    server, one = settings(objects)["server"], container(objects)
    (pod,) = pods(objects)
    assert pod["terminationGracePeriodSeconds"] == server["unready_seconds"] + server["drain_seconds"] + 10
    # The pod is out of its endpoints before it stops listening, also for a proxy that goes by its own probe.
    readiness = one["readinessProbe"]
    assert server["unready_seconds"] > readiness["periodSeconds"] * readiness["failureThreshold"]
    # A request with the deadline that it has without naming one is not cut off.
    defaults = yaml.safe_load((REPOSITORY / "config" / "default.yaml").read_text())
    assert server["drain_seconds"] >= defaults["engine"]["default_deadline_seconds"]


def test_a_grace_period_that_is_too_short_is_refused() -> None:
    assert "must be above" in refused({"terminationGracePeriodSeconds": 40})
    (pod,) = pods(render({"terminationGracePeriodSeconds": 41}))
    assert pod["terminationGracePeriodSeconds"] == 41


def test_an_unknown_setting_stops_the_program(tmp_path: Path) -> None:
    objects = render({"config": {"server": {"listens": "0.0.0.0:8080"}}})
    config = tmp_path / "config.yaml"
    config.write_text(objects["ConfigMap"]["data"]["config.yaml"])
    done = run(["fetch", "--list"], environment(container(objects), config))
    assert done.returncode == 1
    assert "listens" in done.stderr


def test_large_numbers_stay_numbers() -> None:
    assert settings(render(values("offline-claim")))["engine"]["work_bytes"] == 1610612736


def test_another_setting_rolls_the_pods() -> None:
    def annotation(given: dict[str, Any]) -> str:
        return render(given)["Deployment"]["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    assert annotation({}) == annotation({"replicaCount": 5})
    assert annotation({}) != annotation({"config": {"engine": {"queue_capacity": 8}}})


def test_the_alerts_are_those_of_the_rules_file() -> None:
    rules = yaml.safe_load(RULES.read_text())
    assert render(values("gpu"))["PrometheusRule"]["spec"] == rules
    fewer = render(values("keda"))["PrometheusRule"]["spec"]["groups"][0]["rules"]
    assert fewer == [rule for rule in rules["groups"][0]["rules"] if rule["alert"] != "MaskclipNotDurable"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool")
def test_promtool_reads_the_alerts(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(render(values("gpu"))["PrometheusRule"]["spec"]))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_scrapes_job_is_the_one_that_the_alerts_expect() -> None:
    objects = render(values("gpu"))
    label = objects["ServiceMonitor"]["spec"]["jobLabel"]
    assert objects["Service"]["metadata"]["labels"][label] == "maskclip"
    assert 'job="maskclip"' in RULES.read_text()
    assert objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items() <= objects["Service"]["metadata"]["labels"].items()


def test_a_gpu_is_asked_for_and_insisted_on() -> None:
    objects = render(values("gpu"))
    one = container(objects)
    (pod,) = pods(objects)
    assert one["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert one["image"].endswith("-cuda")
    assert pod["runtimeClassName"] == "nvidia"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert settings(objects)["model"]["device"] == "cuda:0"
    assert objects["Deployment"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": "25%"}


def test_weights_are_fetched_before_the_server_starts() -> None:
    objects = render(values("gpu"))
    (pod,) = pods(objects)
    (fetch,) = pod["initContainers"]
    assert fetch["args"] == ["fetch", "ViT-L-14"]
    folder = settings(objects)["model"]["folder"]
    (mount,) = [mount for mount in fetch["volumeMounts"] if mount["mountPath"] == folder]
    assert not mount.get("readOnly")
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == folder]
    assert mount["readOnly"]
    ports = [port["port"] for rule in objects["NetworkPolicy"]["spec"]["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 443]


def test_weights_of_a_claim_need_no_network() -> None:
    objects = render(values("offline-claim"))
    (pod,) = pods(objects)
    assert "initContainers" not in pod
    assert {"name": "weights", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in pod["volumes"]
    assert objects["NetworkPolicy"]["spec"]["egress"] == []
    assert "Egress" in objects["NetworkPolicy"]["spec"]["policyTypes"]


def test_keys_come_from_a_secret() -> None:
    objects = render(values("keys-httproute"))
    path = Path(settings(objects)["access"]["keys_file"])
    (mount,) = [mount for mount in container(objects)["volumeMounts"] if mount["mountPath"] == str(path.parent)]
    (pod,) = pods(objects)
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert volume["secret"]["secretName"] == "maskclip-keys"
    assert path.name == "keys.yaml"
    (endpoint,) = objects["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "maskclip-metrics", "key": "key"}}


def test_a_statefulset_keeps_what_its_pods_have() -> None:
    objects = render(values("statefulset"))
    one = objects["StatefulSet"]["spec"]
    assert {claim["metadata"]["name"] for claim in one["volumeClaimTemplates"]} == {"state", "weights"}
    assert one["serviceName"] == objects["Service/labels-maskclip-pods"]["metadata"]["name"]
    assert objects["Service/labels-maskclip-pods"]["spec"]["clusterIP"] == "None"
    assert one["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"


def test_replicas_share_a_redis() -> None:
    objects = render(values("statefulset"))
    shared = settings(objects)["shared"]
    assert shared["url"] == "rediss://redis.example:6380/0"
    mounts = {mount["mountPath"] for mount in container(objects)["volumeMounts"]}
    assert {str(Path(shared[key]).parent) for key in ("password_file", "ca_file")} <= mounts
    ports = [port["port"] for rule in objects["NetworkPolicy"]["spec"]["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 443, 6380]
    (port,) = render({"shared": {"url": "redis://redis"}})["NetworkPolicy"]["spec"]["egress"][1]["ports"]
    assert port["port"] == 6379


def variable(one: dict[str, Any], name: str) -> dict[str, Any]:
    (entry,) = [entry for entry in one["env"] if entry["name"] == name]
    return entry["valueFrom"]


def test_the_address_of_a_redis_comes_from_a_secret() -> None:
    objects = render(values("redis-secret"))
    shared = settings(objects)["shared"]
    assert shared == {"prefix": "labels", "timeout_seconds": 0.2, "password_file": "/etc/maskclip/redis/password"}
    assert variable(container(objects), "MASKCLIP_SHARED__URL") == {"secretKeyRef": {"name": "redis-address", "key": "url"}}
    assert "MASKCLIP_SHARED__URL" not in str(render(values("statefulset"))), "an address in the values is in the settings"

    def redis_ports(given: dict[str, Any]) -> list[int]:
        return [port["port"] for rule in render(given)["NetworkPolicy"]["spec"]["egress"] for port in rule["ports"]]

    assert redis_ports(values("redis-secret")) == [53, 53, 6380]
    assert redis_ports({"shared": {"urlSecret": "redis-address"}}) == [53, 53, 6379]


def relabelled(labels: dict[str, str], rules: list[dict[str, Any]]) -> dict[str, str] | None:
    """A series after rules such as Prometheus applies; None for one that is dropped."""
    for rule in rules:
        value = ";".join(labels.get(label, "") for label in rule.get("sourceLabels", []))
        action = rule.get("action", "replace")
        if action == "labeldrop":
            labels = {label: value for label, value in labels.items() if not re.fullmatch(rule["regex"], label)}
        elif re.fullmatch(rule["regex"], value):
            if action == "drop":
                return None
            assert action == "replace"
            labels = labels | {rule["targetLabel"]: rule["replacement"]}
    return labels


def test_a_prometheus_in_another_namespace_finds_the_pods_and_stores_what_it_shall() -> None:
    monitor = render(values("redis-secret"))["ServiceMonitor"]
    assert monitor["metadata"]["namespace"] == "monitoring"
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["vision"]}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == ("1m", "20s")
    assert endpoint["relabelings"] == [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}]
    asked = {"__name__": "maskclip_http_request_seconds_bucket", "route": "/v1/segment", "le": "1.0"}
    rules = endpoint["metricRelabelings"]
    assert relabelled(asked, rules) == asked, "an alert asks for it"
    assert relabelled(asked | {"route": "/v1/images"}, rules) is None
    assert relabelled({"__name__": "maskclip_stage_seconds_bucket"}, rules) is None
    assert relabelled({"__name__": "maskclip_stage_seconds_sum"}, rules) == {"__name__": "maskclip_stage_seconds_sum"}
    for name in re.findall(r"maskclip_\w+_bucket", RULES.read_text()):
        assert name == asked["__name__"]
    (plain,) = render(values("gpu"))["ServiceMonitor"]["spec"]["endpoints"]
    assert not {"relabelings", "metricRelabelings", "scrapeTimeout"} & plain.keys()


def test_each_pod_says_its_name() -> None:
    assert variable(container(render({})), "MASKCLIP_SERVER__REPLICA") == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_what_clusters_ask_of_every_chart() -> None:
    objects = render(values("site"))
    deployment, (pod,) = objects["Deployment"], pods(objects)
    assert all(one["metadata"]["labels"]["team"] == "vision" for kind, one in objects.items() if kind != "Secret")
    assert deployment["spec"]["template"]["metadata"]["labels"].items() >= {"team": "vision", "version": "stable"}.items()
    assert deployment["spec"]["template"]["metadata"]["annotations"]["reloader.stakater.com/auto"] == "true"
    assert deployment["spec"]["selector"]["matchLabels"].keys() & {"team", "version"} == set(), "a selector cannot change"
    assert (deployment["spec"]["revisionHistoryLimit"], deployment["spec"]["minReadySeconds"]) == (3, 5)
    assert deployment["spec"]["strategy"] == {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert "ServiceAccount" not in objects and pod["serviceAccountName"] == "vision"
    assert pod["containers"][0]["image"].endswith("/maskclip@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert (pod["priorityClassName"], pod["schedulerName"]) == ("serving", "bin-packing")
    (constraint,) = pod["topologySpreadConstraints"]
    assert constraint["whenUnsatisfiable"] == "DoNotSchedule"
    assert [one["name"] for one in pod["containers"]] == ["maskclip", "proxy"]
    assert [one["name"] for one in pod["initContainers"]] == ["wait"]
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "settings"}}]
    assert objects["PodDisruptionBudget"]["spec"].keys() == {"minAvailable", "selector", "unhealthyPodEvictionPolicy"}
    assert objects["Secret"]["metadata"]["name"] == "labels-settings", "texts of further objects are templates"
    assert objects["Service"]["spec"].items() >= {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}.items()


def test_any_other_pod_is_another_job() -> None:
    def name(**more: Any) -> str:
        return render(values("label") | more)["Job"]["metadata"]["name"]

    assert name() == name(commonLabels={})
    assert len({name(), name(podAnnotations={"a": "b"}), name(extraEnv=[{"name": "A", "value": "b"}]), name(nodeSelector={"a": "b"})}) == 4


@pytest.mark.parametrize("name", NAMES)
def test_the_notes_name_what_there_is(name: str) -> None:
    given = values(name)
    with helm_python.Chart.load(CHART) as chart:
        (notes,) = [text for path, text in chart.render(given, name="labels", namespace="vision").items() if path.endswith("NOTES.txt")]
    service = given.get("fullnameOverride", "labels-maskclip")
    assert (f"port-forward service/{service} 8080:http" in notes) == (given.get("workload") != "none")
    assert ("There are no API keys" in notes) == (given.get("workload") != "none" and "access" not in given)
    assert ("get jobs" in notes) == ("label" in given)
    assert "<" not in notes and "\n\n\n" not in notes


@pytest.mark.parametrize("name, kind", [("keda", "ScaledObject"), ("hpa-ingress", "HorizontalPodAutoscaler")])
def test_autoscaling_alone_decides_on_replicas(name: str, kind: str) -> None:
    objects = render(values(name))
    assert "replicas" not in objects["Deployment"]["spec"]
    target = objects[kind]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", objects["Deployment"]["metadata"]["name"])


def test_the_ingress_and_the_route_lead_to_the_service() -> None:
    objects = render(values("hpa-ingress"))
    (rule,) = objects["Ingress"]["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": objects["Service"]["metadata"]["name"], "port": {"name": "http"}}
    objects = render(values("keys-httproute"))
    (rule,) = objects["HTTPRoute"]["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": objects["Service"]["metadata"]["name"], "port": 80}]
    assert rule["filters"][0]["urlRewrite"]["path"] == {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}


def test_a_release_without_a_server_has_none() -> None:
    assert render(values("label")).keys() == {"Job", "ConfigMap", "ServiceAccount", "NetworkPolicy"}


# With the program.


def test_the_rendered_server_answers_its_probes_and_has_the_metrics_of_the_queries(tmp_path: Path) -> None:
    objects = render({**values("keda"), "config": {"server": {"unready_seconds": 1, "drain_seconds": 2}}})
    config = settings(objects)
    config["model"]["folder"] = str(tmp_path / "models")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    given = environment(container(objects), file)
    given["MASKCLIP_MODEL__FOLDER"] = config["model"]["folder"]
    # As text, the line with the address goes to standard output.
    given["MASKCLIP_TELEMETRY__LOG_FORMAT"] = "text"
    plain = {name.removeprefix("MASKCLIP_"): value for name, value in given.items()}
    with Server(PROGRAM, **plain) as server:
        base = f"http://127.0.0.1:{server.port}"
        for kind in ("startup", "liveness", "readiness"):
            path = container(objects)[f"{kind}Probe"]["httpGet"]["path"]
            with urllib.request.urlopen(base + path, timeout=10) as reply:
                assert reply.status == 200
        image = base64.b64encode((REPOSITORY / "examples" / "picnic.png").read_bytes()).decode()
        body = json.dumps({"image": image, "classes": ["tiger", "lemon"]}).encode()
        ask = urllib.request.Request(f"{base}/v1/segment", body, {"content-type": "application/json"})
        with urllib.request.urlopen(ask, timeout=60) as reply:
            assert reply.status == 200
        with urllib.request.urlopen(f"{base}/metrics", timeout=10) as reply:
            metrics = reply.read().decode()
        query = objects["ScaledObject"]["spec"]["triggers"][0]["metadata"]["query"]
        for metric in re.findall(r"maskclip_\w+", query):
            assert re.search(rf'^{metric}{{.*stage="queue".*}} ', metrics, re.MULTILINE), metric
        begun = time.monotonic()
        # As `helm test` asks, but for the Service's name.
        arguments = objects["Pod"]["spec"]["containers"][0]["args"]
        arguments = [text.replace("labels-maskclip:80", f"localhost:{server.port}") for text in arguments]
        asked = run(arguments, {"MASKCLIP_CONFIG": str(file)})
        assert (asked.returncode, asked.stdout) == (0, "demo: ready\n"), asked.stderr
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(pods(objects)[0]["terminationGracePeriodSeconds"]) == 0
        assert time.monotonic() - begun > 1


def test_the_rendered_job_labels_every_image_once(tmp_path: Path) -> None:
    given = values("label")
    given |= {"weights": {"source": "embedded"}, "config": {}}
    given["label"] |= {"shards": 2, "arguments": ["--classes", "tiger,lemon", "--format", "csv"]}
    objects = render(given)
    assert objects["Job"]["spec"]["completions"] == 2
    one = container(objects)
    images, labels = tmp_path / "images", tmp_path / "labels"
    (images / "2026").mkdir(parents=True)
    for number in range(4):
        shutil.copy(REPOSITORY / "examples" / "scenes" / "openmoji" / f"{number:02}.png", images / "2026")
    config = tmp_path / "config.yaml"
    config.write_text(objects["ConfigMap"]["data"]["config.yaml"])
    variables = environment(one, config)
    arguments = [re.sub("^/images", str(images), re.sub("^/labels", str(labels), text)) for text in one["args"]]
    for index in range(2):
        done = run(arguments, variables | {"JOB_COMPLETION_INDEX": str(index)})
        assert done.returncode == 0, done.stderr
    rows = (labels / "2026" / "streets" / "statistics.csv").read_text().splitlines()[1:]
    assert sorted({row.split(",")[0] for row in rows}) == [f"{number:02}.png" for number in range(4)]


# KServe.


def kserve(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "deploy" / "kserve" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", ["serving-runtime", "inference-service"])
def test_kserve_knows_every_field(name: str) -> None:
    check(kserve(name))


def test_the_runtime_and_the_service_belong_together() -> None:
    assert kserve("serving-runtime")["spec"]["containers"][0]["image"] == container(render({}))["image"]
    runtime, service = kserve("serving-runtime"), kserve("inference-service")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [one["name"] for one in runtime["spec"]["supportedModelFormats"]]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    variables = {entry["name"]: entry["value"] for entry in runtime["spec"]["containers"][0]["env"]}
    phases = int(variables["MASKCLIP_SERVER__UNREADY_SECONDS"]) + int(variables["MASKCLIP_SERVER__DRAIN_SECONDS"])
    assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] > phases


def test_the_runtime_serves_a_model_under_the_services_name() -> None:
    one = kserve("serving-runtime")["spec"]["containers"][0]
    variables = {entry["name"].removeprefix("MASKCLIP_"): entry["value"] for entry in one["env"]}
    variables["MODELS"] = variables["MODELS"].replace("{{.Name}}", "labels").replace("/mnt/models", "demo")
    variables |= {"SERVER__UNREADY_SECONDS": "0", "TELEMETRY__LOG_FORMAT": "text"}
    with Server(PROGRAM, **variables) as server:
        probes = [one[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")]
        for path in [*probes, "/v2/models/labels", "/v2/models/labels/ready"]:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as reply:
                assert reply.status == 200, path
