"""What `--device auto` takes: the CPU for few images, CUDA for many where it opens."""

from types import SimpleNamespace

import pytest

from serve import devices
from serve.cli import predict as predicting
from serve.devices import CUDA_MIN_IMAGES, Speed, cuda_is_faster_from, load_for
from zoo import runtime
from zoo.errors import DeviceUnavailable
from zoo.model import onnx_bytes


@pytest.fixture
def opened(monkeypatch):
    """Devices that were opened; CUDA is there."""
    log = []
    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    monkeypatch.setattr(devices, "load", lambda name, device: log.append(device) or SimpleNamespace(device=device))
    return log


@pytest.mark.parametrize("count", [0, 1, CUDA_MIN_IMAGES - 1, None])
def test_auto_uses_cpu_for_few_images(opened, count):
    load_for("mnist14k", "auto", count)
    assert opened == ["auto"]  # which zoo.load answers with the CPU


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
    monkeypatch.setattr(runtime, "_session", lambda *given: devices_of_sessions.append(given[2]) or real(*given))
    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    request = predicting.PredictOptions(("examples/seven.png",), "mnist14k", 3, None, "crop", "auto")
    assert predicting.predict(request) == 0
    assert devices_of_sessions == ["cpu"]
    assert "on cpu" in capsys.readouterr().err


def test_predict_reports_cuda_for_many_images(monkeypatch, capsys, model):
    class OnCuda:
        device, card = "cuda", model.card

        def __getattr__(self, name):
            return getattr(model, name)

    monkeypatch.setattr(predicting, "CUDA_MIN_IMAGES", 2)
    monkeypatch.setattr(predicting, "load_for", lambda name, device, count: OnCuda() if count == 2 else None)
    request = predicting.PredictOptions(
        ("examples/seven.png", "examples/nine.png"), "mnist14k", 3, None, "crop", "auto"
    )
    assert predicting.predict(request) == 0
    said = capsys.readouterr().err
    assert said.index("on cpu") < said.index("on cuda, for 2 images")


def test_break_even_includes_the_start_of_cuda():
    cpu, cuda = Speed("cpu", 0.0, 0, 1, 1000.0), Speed("cuda", 1.5, 500, 1, 100_000.0)
    number = cuda_is_faster_from(cpu, cuda, processes=10)
    assert number == pytest.approx(2.0 / (1 / 10_000 - 1 / 100_000), abs=1)
    assert number / 10_000 == pytest.approx(2.0 + number / 100_000, rel=1e-3)  # both are done at the same time
    assert cuda_is_faster_from(cpu, cuda, processes=200) is None


def test_doctor_shows_both_devices_and_auto(monkeypatch):
    speeds = {"cpu": Speed("cpu", 0.01, 1, 0.1, 10_000.0), "cuda": Speed("cuda", 1.01, 1001, 0.1, 800_000.0)}
    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    monkeypatch.setattr(devices, "measure", lambda content, device: speeds[device])
    monkeypatch.setattr(devices, "cores", lambda: 16)
    rows = dict(devices.describe(b""))
    assert "session opens in 1.01 s" in rows["cuda"]
    assert "10,000 images/s per core" in rows["cpu"]
    assert f"cpu; cuda from {CUDA_MIN_IMAGES:,} images" in rows["auto"]
    assert "faster from 400,000 images" in rows["auto"]


def test_doctor_without_cuda_measures_the_cpu(model):
    rows = dict(devices.describe(onnx_bytes(model)))
    assert rows["auto"] == "cpu, always"
    assert "images/s per core" in rows["cpu"]
