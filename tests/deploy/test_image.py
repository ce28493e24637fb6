"""The Dockerfile's claims, without a container engine: its own steps and its server in bubblewrap.

Packages that are installed here take the place of downloads; pip still builds and installs pocketzoo. See image.py.
"""

import os
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import yaml

from tests.deploy.image import KEY, Image, stages
from tests.support.paths import REPOSITORY, add_model
from tests.support.server import children_of, wait_for

pytestmark = pytest.mark.slow
PNG = REPOSITORY / "examples" / "seven.png"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap (Debian: apt-get install bubblewrap)")
    trial = subprocess.run(["bwrap", "--unshare-user", "--ro-bind", "/", "/", "true"], capture_output=True, text=True)
    if trial.returncode:
        pytest.skip(f"bubblewrap cannot make a user namespace here: {trial.stderr.strip()}")
    packages = Path(find_spec("numpy").origin).parents[1]
    image = Image(tmp_path_factory.mktemp("image"), packages)
    try:
        image.build()
    except subprocess.CalledProcessError as error:
        if "No matching distribution" in error.stderr or "Could not find a version" in error.stderr:
            pytest.skip(f"no package index answers: {error.stderr[-300:]}")
        raise AssertionError(error.stdout + error.stderr) from None
    return image


def output(image, script, **options):
    done = subprocess.run(image.run(["/bin/sh", "-c", script], **options), capture_output=True, text=True, timeout=60)
    return done.stdout.strip(), done.stderr


def test_user_and_file_system(image):
    """A numeric user who is not root, without capabilities; nothing but /tmp can be written."""
    assert stages()["image"].last("USER") == "10001:10001"
    assert output(image, "id -u; id -g")[0].split() == ["10001", "10001"]
    assert output(image, "grep CapEff /proc/self/status")[0].split()[1] == "0" * 16
    for folder in ("/", "/opt/zoo", "/opt/zoo/bin", "/usr/local/bin", "/var"):
        assert "denied" in output(image, f"touch {folder}/x || echo denied")[0]
    assert output(image, "touch /tmp/x && echo written")[0] == "written"


def test_commands(image):
    """The entry point takes any command: `docker run pocketzoo list`."""
    out, err = output(image, "zoo list mnist14k && zoo verify mnist14k && command -v zoo")
    assert "mnist14k.plus *" in out, err
    assert "FAILED" not in out
    assert out.endswith("/opt/zoo/bin/zoo")
    assert not list(image.environment.rglob("*.safetensors"))


def test_server_health_check_key_and_end(image, tmp_path):
    home = tmp_path / "home"
    add_model(home, "mine.a")
    log = tmp_path / "log"
    with image.serving(log, {"/data": home}) as (process, url, healthy):
        assert healthy() != 0  # nothing listens yet
        wait_for(lambda: process.poll() is not None or healthy() == 0, 40)
        assert process.poll() is None, log.read_text()
        headers = {"X-API-Key": KEY, "Content-Type": "image/png"}
        row = httpx.post(f"{url}/models/mine.a/predict", content=PNG.read_bytes(), headers=headers, timeout=30).json()
        assert row["label"] == "7"
        assert httpx.get(f"{url}/models").status_code == 401
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert "zoo_requests_total" in httpx.get(f"{url}/metrics", headers=headers).text
        assert httpx.get(f"{url}/models", headers=headers | {"Host": "evil.example"}).status_code == 421
        (server,) = children_of(process.pid)  # process 1 of its namespace, as in a container
        started = time.monotonic()
        os.kill(server, signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
        assert time.monotonic() - started < 15
    assert "Traceback" not in log.read_text()


def test_server_with_the_folders_of_kserve(image, tmp_path):
    """The ServingRuntime's command and variables, with a model folder at /mnt/models."""
    runtime = yaml.safe_load((REPOSITORY / "examples/deploy/kserve/serving-runtime.yaml").read_text())
    (container,) = runtime["spec"]["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    folder = add_model(tmp_path / "mnt", "mine.a").parent
    log = tmp_path / "log"
    with image.serving(log, {"/mnt/models": folder}, container["args"], **variables) as (process, url, healthy):
        wait_for(lambda: process.poll() is not None or healthy() == 0, 40)
        assert process.poll() is None, log.read_text()
        host = {"X-API-Key": KEY, "Host": "pocketzoo-predictor.default.svc.cluster.local"}
        assert httpx.get(f"{url}/v2/models/mine.a/ready", headers=host).status_code == 200
        assert httpx.get(f"{url}/", headers=host).text.count("gradio") == 0
        body = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": [0] * 784}]}
        reply = httpx.post(f"{url}/v2/models/mine.a/infer", json=body, headers=host, timeout=30)
        assert reply.json()["outputs"][0]["shape"] == [1, 10]
