"""Compose file, Kubernetes manifests, Prometheus rules and Grafana dashboard, compared with the server that they run.

No container engine or cluster is used. Kubernetes objects are validated against the schemas of kubernetes-validate.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from ipaddress import ip_address

import numpy as np
import pytest
import yaml

from serve.cli.serve import command
from serve.server.gateway import PUBLIC_PATHS
from serve.server.origins import OriginPolicy
from serve.service.metrics import Metrics
from serve.service.pool import Runner, WorkItem
from serve.service.settings import Settings
from tests.deploy.image import stages, variables
from tests.support.paths import REPOSITORY, add_model
from zoo import load, registry

DEPLOY = REPOSITORY / "examples" / "deploy"
IMAGE = variables(stages()["image"], {"PATH": ""})
KUBERNETES = "1.33"
FROM_KUBERNETES = {"v1", "apps/v1", "policy/v1", "networking.k8s.io/v1", "autoscaling/v2"}
YAMLLINT = (
    "{extends: default, rules: {line-length: {max: 140}, document-start: disable, braces: {max-spaces-inside: 0}}}"
)


def manifest(path):
    return yaml.safe_load((DEPLOY / path).read_text())


COMPOSE = manifest("compose.yaml")
DEPLOYMENT = manifest("kubernetes/deployment.yaml")
RUNTIME = manifest("kserve/serving-runtime.yaml")
CONTAINERS = {  # what starts the server
    "deployment": DEPLOYMENT["spec"]["template"]["spec"]["containers"][0],
    "kserve": RUNTIME["spec"]["containers"][0],
}
OBJECTS = {str(path.relative_to(DEPLOY)): manifest(path) for path in sorted(DEPLOY.glob("k*/**/*.yaml"))}


def environment(container):
    """The container's variables; those from a Secret as some text."""
    return {entry["name"]: entry.get("value", "from-a-secret") for entry in container["env"]}


def settings(monkeypatch, variables, arguments=()):
    """The settings of `zoo serve` with the image's variables and these."""
    for name in [name for name in os.environ if name.startswith("ZOO_")]:
        monkeypatch.delenv(name)
    for name, value in (IMAGE | variables).items():
        if name.startswith("ZOO_"):
            monkeypatch.setenv(name, value)
    with command.make_context("serve", list(arguments), auto_envvar_prefix="ZOO") as context:
        return Settings(**context.params)


def test_lint():
    pytest.importorskip("yamllint", reason="needs yamllint, of the extra dev")
    done = subprocess.run(
        [sys.executable, "-m", "yamllint", "-s", "-d", YAMLLINT, str(DEPLOY)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_dockerfile_lint():
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=os.path.dirname(sys.executable))
    if hadolint is None:
        pytest.skip("needs hadolint, of the extra dev")
    done = subprocess.run([hadolint, REPOSITORY / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", OBJECTS)
def test_kubernetes_objects_match_their_schemas(path):
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="needs kubernetes-validate, of the extra dev"
    )
    value = OBJECTS[path]
    if value.get("apiVersion") in FROM_KUBERNETES:
        kubernetes_validate.validate(value, KUBERNETES, strict=True)
    elif value.get("kind") == "ServingRuntime":  # its containers and volumes are Kubernetes' own
        pod = {name: value["spec"][name] for name in ("containers", "volumes")}
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)
    elif value.get("kind") == "InferenceService":
        pod = {"containers": RUNTIME["spec"]["containers"]}
        pod["securityContext"] = value["spec"]["predictor"]["securityContext"]
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)
    else:
        assert value.get("kind") in ("Kustomization", "ServiceMonitor") or path.endswith("prometheus-adapter.yaml")


def test_objects_refer_to_each_other():
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    for path in ("deployment", "disruption-budget"):
        assert manifest(f"kubernetes/{path}.yaml")["spec"]["selector"]["matchLabels"] == labels
    service = manifest("kubernetes/service.yaml")
    assert service["spec"]["selector"] == labels
    assert manifest("kubernetes/network-policy.yaml")["spec"]["podSelector"]["matchLabels"] == labels
    ports = {port["name"] for port in CONTAINERS["deployment"]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    policy = manifest("kubernetes/network-policy.yaml")["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} <= ports
    target = manifest("kubernetes/autoscaler.yaml")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (DEPLOYMENT["kind"], DEPLOYMENT["metadata"]["name"])
    assert "replicas" not in DEPLOYMENT["spec"]
    monitor = manifest("kubernetes/optional/service-monitor.yaml")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    secret = manifest("kubernetes/secret.yaml")
    keys = [monitor["endpoints"][0]["authorization"]["credentials"]]
    keys += [
        entry["valueFrom"]["secretKeyRef"]
        for each in CONTAINERS.values()
        for entry in each["env"]
        if "valueFrom" in entry
    ]
    assert all(key["name"] == secret["metadata"]["name"] and key["key"] in secret["stringData"] for key in keys)
    listed = set(manifest("kubernetes/kustomization.yaml")["resources"])
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert listed == files - {"kustomization.yaml", "secret.yaml"}
    inference = manifest("kserve/inference-service.yaml")["spec"]["predictor"]["model"]
    assert inference["runtime"] == RUNTIME["metadata"]["name"]
    assert inference["modelFormat"]["name"] in {each["name"] for each in RUNTIME["spec"]["supportedModelFormats"]}
    assert inference["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_probes_use_routes_and_ports_of_the_server(name):
    container = CONTAINERS[name]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = {key: value["httpGet"] for key, value in container.items() if key.endswith("Probe")}
    assert {"readinessProbe", "livenessProbe"} <= probes.keys()
    for probe in probes.values():
        assert probe["path"] in PUBLIC_PATHS
        assert str(ports.get(probe["port"], probe["port"])) == IMAGE["ZOO_HEALTH_PORT"]
    assert probes["livenessProbe"]["path"].endswith("live")  # a server that is not ready must not be restarted
    assert IMAGE["ZOO_PORT"] in map(str, ports.values())


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_have_no_rights(name):
    container = CONTAINERS[name]
    pod = DEPLOYMENT["spec"]["template"]["spec"] if name == "deployment" else OBJECTS["kserve/inference-service.yaml"][
        "spec"]["predictor"]  # fmt: skip
    user = int(stages()["image"].last("USER").split(":")[0])
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == user > 0
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"memory"} <= container["resources"]["limits"].keys()
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]  # the only writable folder


@pytest.mark.parametrize(
    ("variables", "arguments", "hosts"),
    [
        ({}, [], ["127.0.0.1:8000", "10.0.0.7:8000"]),
        (COMPOSE["services"]["zoo"]["environment"], [], ["zoo:8000", "127.0.0.1:8000"]),
        (
            environment(CONTAINERS["deployment"]),
            [],
            ["pocketzoo", "pocketzoo.default.svc", "pocketzoo.default.svc.cluster.local:80", "10.0.0.7:8000"],
        ),
        (
            environment(CONTAINERS["kserve"]),
            CONTAINERS["kserve"]["args"][1:],
            ["pocketzoo-predictor.default.svc.cluster.local", "pocketzoo-predictor.models.svc"],
        ),
    ],
    ids=["image", "compose", "deployment", "kserve"],
)
def test_variables_are_options_of_the_server_and_allow_its_hosts(monkeypatch, variables, arguments, hosts):
    chosen = settings(monkeypatch, variables, arguments)
    assert ip_address(chosen.host).is_unspecified
    assert (str(chosen.port), str(chosen.health_port)) == (IMAGE["ZOO_PORT"], IMAGE["ZOO_HEALTH_PORT"])
    policy = OriginPolicy(chosen)
    for host in hosts:
        policy.check_host(host.encode())
    with pytest.raises(Exception, match="not allowed"):
        policy.check_host(b"evil.example")
    options = {f"ZOO_{parameter.name.upper()}" for parameter in command.params} | {
        parameter.envvar for parameter in command.params
    }
    known = options | {"ZOO_API_KEY", "ZOO_HOME"}
    assert {name for name in IMAGE | variables if name.startswith("ZOO_")} <= known
    if variables:
        assert "ZOO_API_KEY" in variables


def test_compose_file_fits_together():
    services = COMPOSE["services"]
    prometheus = manifest("prometheus/prometheus.yml")
    (job,) = prometheus["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert (host in services, port) == (True, IMAGE["ZOO_PORT"])
    assert host in services["zoo"]["environment"]["ZOO_ALLOWED_HOST"].split()
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{services['prometheus']['secrets'][0]}"
    assert set(services["prometheus"]["secrets"]) <= COMPOSE["secrets"].keys()
    for service in services.values():
        assert all(published.startswith("127.0.0.1:") for published in service["ports"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).exists()
            assert source.startswith((".", "$")) or source in COMPOSE["volumes"]
    assert services["zoo"]["user"] == stages()["image"].last("USER")
    assert services["zoo"]["read_only"]
    assert {rule for rule in prometheus["rule_files"]} == {"alerts.yml"}
    datasource = manifest("grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    assert datasource["url"] == "http://prometheus:9090"
    dashboards = manifest("grafana/provisioning/dashboards/pocketzoo.yaml")["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{dashboards}:ro" in services["grafana"]["volumes"]
    assert DASHBOARD["panels"][0]["datasource"]["uid"] == datasource["uid"]


DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/pocketzoo.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
QUERIES += [variable["definition"] for variable in DASHBOARD["templating"]["list"]]
QUERIES += [
    rule["expr"] for group in manifest("prometheus/alerts.yml")["groups"] for rule in group["rules"]
]  # fmt: skip
QUERIES.append(manifest("kubernetes/optional/prometheus-adapter.yaml")["rules"]["custom"][0]["seriesQuery"])
QUERIES += [
    metric["pods"]["metric"]["name"]
    for metric in manifest("kubernetes/autoscaler.yaml")["spec"]["metrics"]
    if metric["type"] == "Pods"
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """What /metrics has: name → label → values."""
    from prometheus_client.parser import text_string_to_metric_families

    model = load("mnist4k.plus")
    metrics = Metrics(tmp_path_factory.mktemp("metrics") / "file", 0, 1, [model.card.name])
    item = WorkItem(Runner(model), images=np.zeros((1, 28, 28, 1), np.uint8), output="scores")
    item.scores = model.run(item.images)
    metrics.count_images(item)  # the series of a model appear with its first answer
    found = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_queries_use_metrics_and_labels_that_the_server_has(samples, query):
    """Each metric, each label and each value of a label; labels that Prometheus adds are known too."""
    names = re.findall(r"\bzoo_\w+", query)
    assert names or query.startswith("up{")
    for name in names:
        assert name in samples
    for name, selector in re.findall(r"\b(zoo_\w+)\{(.*?)\}", query):
        for label, operator, value in re.findall(r'(\w+)(=~|!=|=)"(.*?)"', selector):
            if label in ("instance", "job", "namespace", "pod"):
                continue
            values = value.split("|") if operator == "=~" else [value]
            assert set(values) <= samples[name][label]
    grouped = {label.strip() for labels in re.findall(r"by \((.*?)\)", query) for label in labels.split(",")}
    for label in grouped - {"instance"}:
        assert any(label in samples[name] for name in names)


def test_queries_are_valid():
    """Prometheus' own checks, where promtool is installed (Debian: prometheus), or those of promql-parser."""
    parser = pytest.importorskip("promql_parser", reason="needs promql-parser, of the extra dev")
    for query in QUERIES:
        if not query.startswith("label_values("):
            parser.parse(query.replace("$__rate_interval", "5m").replace("$instance", ".*"))


def test_each_series_of_the_server_is_on_the_dashboard(samples):
    shown = {name for query in QUERIES for name in re.findall(r"\bzoo_\w+", query)}
    kinds = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in samples}
    assert kinds == {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in shown}


@pytest.mark.parametrize("linked", [False, True])
def test_model_folder_of_kserve(tmp_path, monkeypatch, linked):
    """ZOO_HOME=/mnt finds the models that KServe mounts at /mnt/models, also if that is a link (for OCI images)."""
    assert environment(CONTAINERS["kserve"])["ZOO_HOME"] == "/mnt"
    root = tmp_path / "mnt"
    folder = add_model(tmp_path / "elsewhere" if linked else root, "mine.a")
    if linked:
        root.mkdir()
        (root / "models").symlink_to(folder.parent)
    monkeypatch.setenv("ZOO_HOME", str(root))
    assert registry.find("mine.a").card.name == "mine.a"
    assert registry.find("mine.a").read("model.onnx")


def test_build_arguments_are_extras():
    """The image's runtime is an extra of pyproject.toml, and both variants are in the guide."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "RUNTIME=cpu" in stages()["build"].all("ARG")
    guide = (REPOSITORY / "docs/guides/containers.md").read_text()
    assert {"cpu", *re.findall(r"--build-arg RUNTIME=(\w+)", guide)} == {"cpu", "gpu"} <= extras.keys()
    assert ".[${RUNTIME},serve]" in stages()["build"].last("RUN")


def test_ignore_file_lets_through_what_the_image_needs():
    """The Dockerfile copies nothing that .dockerignore holds back, and everything else stays out of the context."""
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    allowed = {line[1:].split("/")[0] for line in lines if line.startswith("!")}
    copied = {word for each in stages()["build"].all("COPY") for word in each.split()[:-1]}
    assert copied == allowed
