"""`--device auto`: the CPU for few images, CUDA for many if available. And the number of cores."""

import os
from types import SimpleNamespace

import pytest

from serve import devices
from serve.cli import predict as predict_command
from serve.devices import CUDA_MIN_IMAGES, Speed, cores, cuda_is_faster_from, load_for
from zoo import registry, runtime
from zoo.errors import DeviceUnavailable


@pytest.fixture
def opened(monkeypatch):
    """A log of the devices that models are opened on; CUDA is available."""
    log = []
    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    monkeypatch.setattr(devices, "load", lambda name, device: log.append(device) or SimpleNamespace(device=device))
    return log


@pytest.mark.parametrize("count", [0, 1, CUDA_MIN_IMAGES - 1, None])
def test_auto_uses_cpu_for_few_images(opened, count):
    load_for("mnist14k", "auto", count)
    assert opened == ["auto"]  # for which zoo.load uses the CPU


def test_auto_uses_cuda_for_many_images(opened, monkeypatch):
    assert load_for("mnist14k", "auto", CUDA_MIN_IMAGES).device == "cuda"
    assert load_for("mnist14k", "cpu", CUDA_MIN_IMAGES).device == "cpu"
    monkeypatch.setattr(devices, "has_cuda", lambda: False)
    assert load_for("mnist14k", "auto", CUDA_MIN_IMAGES).device == "auto"


def test_auto_uses_cpu_if_cuda_cannot_be_opened(monkeypatch):
    def load(name, device):
        if device == "cuda":
            raise DeviceUnavailable("driver too old")
        return device

    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    monkeypatch.setattr(devices, "load", load)
    assert load_for("mnist14k", "auto", CUDA_MIN_IMAGES) == "auto"
    with pytest.raises(DeviceUnavailable):
        load_for("mnist14k", "cuda", 1)


def test_predict_opens_no_cuda_session_for_one_image(monkeypatch, capsys):
    real = runtime._session
    devices_of_sessions = []
    monkeypatch.setattr(
        runtime, "_session", lambda *arguments: devices_of_sessions.append(arguments[2]) or real(*arguments)
    )
    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    options = predict_command.PredictOptions(("examples/seven.png",), "mnist14k", 3, None, "crop", "auto")
    assert predict_command.predict(options) == 0
    assert devices_of_sessions == ["cpu"]
    assert "on cpu" in capsys.readouterr().err


def test_predict_reports_cuda_for_many_images(monkeypatch, capsys, model):
    class OnCuda:
        device, card = "cuda", model.card

        def __getattr__(self, name):
            return getattr(model, name)

    monkeypatch.setattr(predict_command, "CUDA_MIN_IMAGES", 2)
    monkeypatch.setattr(predict_command, "load_for", lambda name, device, count: OnCuda() if count == 2 else None)
    options = predict_command.PredictOptions(
        ("examples/seven.png", "examples/nine.png"), "mnist14k", 3, None, "crop", "auto"
    )
    assert predict_command.predict(options) == 0
    stderr = capsys.readouterr().err
    assert stderr.index("on cpu") < stderr.index("on cuda, for 2 images")


def test_break_even_includes_the_start_of_cuda():
    cpu, cuda = Speed("cpu", 0.0, 0, 1, 1000.0), Speed("cuda", 1.5, 500, 1, 100_000.0)
    number = cuda_is_faster_from(cpu, cuda, processes=10)
    assert number == pytest.approx(2.0 / (1 / 10_000 - 1 / 100_000), abs=1)
    assert number / 10_000 == pytest.approx(2.0 + number / 100_000, rel=1e-3)  # both end at the same time
    assert cuda_is_faster_from(cpu, cuda, processes=200) is None


def test_doctor_shows_both_devices_and_auto(monkeypatch):
    speeds = {"cpu": Speed("cpu", 0.01, 1, 0.1, 10_000.0), "cuda": Speed("cuda", 1.01, 1001, 0.1, 800_000.0)}
    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    monkeypatch.setattr(devices, "measure", lambda content, device: speeds[device])
    monkeypatch.setattr(devices, "cores", lambda: 16)
    rows = dict(devices.describe(b""))
    assert "session opens in 1.01 s" in rows["cuda"]
    assert "10,000 images/s per core" in rows["cpu"]
    assert f"CUDA for {CUDA_MIN_IMAGES:,} images or more" in rows["auto"]
    assert "faster from 400,000 images" in rows["auto"]


def test_doctor_without_cuda_measures_the_cpu(model):
    rows = dict(devices.describe(registry.find("mnist14k").read("model.onnx")))
    assert "always uses the CPU" in rows["auto"]
    assert "images/s per core" in rows["cpu"]


def write_cgroups(root, lines, files):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        (root / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "sys/fs/cgroup" / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "max 100000"}, 3),
        ("0::/hidden/path\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../other\n", {"cpu.max": "400000 100000\n"}, 4),
        ("4:cpu,x:/d\n", {"cpu,x/d/cpu.cfs_quota_us": "250000", "cpu,x/d/cpu.cfs_period_us": "100000"}, 3),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ("2:cpuacct:/x\n", {"cpuacct/x/cpu.cfs_quota_us": "1", "cpuacct/x/cpu.cfs_period_us": "1"}, 16),
        ("1:memory:/\n0::/u\n", {"unified/u/cpu.max": "200000 100000\n"}, 2),
        ("nonsense\n0::\n\n", {"cpu.max": "words\n"}, 16),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 16),
    ],
)  # fmt: skip
def test_cores_respect_cgroup_quotas(tmp_path, monkeypatch, lines, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert cores(write_cgroups(tmp_path, lines, files)) == expected


def test_cores_respect_cpu_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert cores(tmp_path) == 2
    assert cores(write_cgroups(tmp_path, "0::/\n", {"cpu.max": "800000 100000"})) == 2
