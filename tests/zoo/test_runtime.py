"""Sessions run on the requested device, and a missing or doubled runtime is one clear error."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from zoo import registry, runtime
from zoo.errors import BadModel, DeviceUnavailable


@pytest.fixture
def content():
    return (registry.find("mnist14k").folder / "model.onnx").read_bytes()


def fake_runtime(available, used=None, fails=(), no_graphs=False):
    """An onnxruntime that offers the named providers; sessions on those in `fails` raise."""

    class Session:
        def __init__(self, model, options, providers, enable_fallback):
            name, chosen = providers[0] if isinstance(providers[0], tuple) else (providers[0], {})
            if name in fails:
                raise RuntimeError("CUDA failure 35: driver too old.\nmore lines")
            if no_graphs and "enable_cuda_graph" in chosen:
                raise RuntimeError("This session cannot use the graph capture feature as requested by the user.")
            self.providers = [used or name]
            log.append(chosen)

        def get_providers(self):
            return self.providers

    class Options(SimpleNamespace):
        def add_session_config_entry(self, key, value):
            pass

    log = []
    return SimpleNamespace(
        __version__="9.9", InferenceSession=Session, SessionOptions=Options, log=log,
        get_available_providers=lambda: available, preload_dlls=lambda: (log.append("preloaded"), print("chatter")),
    )  # fmt: skip


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def open_with(monkeypatch, fake, device, graph=False):
    monkeypatch.setattr(runtime, "import_runtime", lambda: fake)
    return runtime.open_session(b"model", device, "the model", graph)[1]


def test_auto_opens_the_cpu_and_never_touches_cuda(monkeypatch):
    for available in ([CUDA, CPU], [CPU]):
        fake = fake_runtime(available)
        assert open_with(monkeypatch, fake, "auto") == open_with(monkeypatch, fake, "cpu") == "cpu"
        assert fake.log == [{}, {}]


def test_cuda_opens_without_tf32_and_with_a_graph_if_requested(monkeypatch, capsys):
    fake = fake_runtime([CUDA, CPU])
    assert open_with(monkeypatch, fake, "cuda") == "cuda"
    expected = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert fake.log == ["preloaded", expected]
    assert capsys.readouterr().out == ""  # stdout is for data; the runtime prints there what it cannot load
    open_with(monkeypatch, fake, "cuda", graph=True)
    assert fake.log[-1] == expected | {"enable_cuda_graph": "1"}
    monkeypatch.setenv("ZOO_CUDA_TF32", "1")
    open_with(monkeypatch, fake, "cuda")
    assert fake.log[-1] == expected | {"use_tf32": "1", "prefer_nhwc": "1"}


def test_cuda_opens_without_a_graph_if_refused(monkeypatch):
    fake = fake_runtime([CUDA, CPU], no_graphs=True)
    assert open_with(monkeypatch, fake, "cuda", graph=True) == "cuda"
    assert "enable_cuda_graph" not in fake.log[-1]
    assert fake.log[-1]["use_tf32"] == "0"


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (fake_runtime([CPU]), "cannot use CUDA"),
        (fake_runtime([CUDA, CPU], fails=[CUDA]), "CUDA failure 35: driver too old"),
        (fake_runtime([CUDA, CPU], used=CPU), "fell back to CPUExecutionProvider"),
    ],
)
def test_cuda_never_falls_back_silently(monkeypatch, fake, words):
    with pytest.raises(DeviceUnavailable, match=words) as caught:
        open_with(monkeypatch, fake, "cuda")
    assert "\n" not in str(caught.value)
    assert "cpu" in str(caught.value)


def test_real_runtime_on_the_cpu(content):
    session, device = runtime.open_session(content, "cpu", "x")
    assert device == "cpu"
    assert session.get_providers() == [CPU]
    assert session.get_session_options().intra_op_num_threads == 1


def test_unknown_device_is_refused(content):
    with pytest.raises(DeviceUnavailable, match="auto, cpu, cuda"):
        runtime.open_session(content, "tpu", "x")


@pytest.mark.parametrize("junk", [b"", b"not a model", bytes(1000)])
def test_junk_bytes_are_bad_model(junk):
    with pytest.raises(BadModel, match=r"junk\.onnx (is not|cannot be opened as) an ONNX model"):
        runtime.open_session(junk, "cpu", "junk.onnx")


def test_missing_runtime_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceUnavailable, match=r"pocketzoo\[cpu\]"):
        runtime.import_runtime()


def test_incomplete_runtime_raises(monkeypatch, tmp_path):
    (tmp_path / "onnxruntime").mkdir()  # what an uninstall of one of two runtimes leaves: a folder without code
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(DeviceUnavailable, match="force-reinstall"):
        runtime.import_runtime()


def test_two_installed_runtimes_raise(tmp_path, monkeypatch):
    for name in ("onnxruntime-1.30.0", "onnxruntime_gpu-1.30.0", "onnxruntime_extensions-0.14.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
    (tmp_path / "onnxruntime").mkdir()
    assert runtime.installed_runtimes(tmp_path) == ["onnxruntime", "onnxruntime-gpu"]
    (tmp_path / "onnxruntime" / "__init__.py").write_text("class InferenceSession: ...\n")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceUnavailable, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        runtime.import_runtime()


def test_describe_opens_real_sessions(content):
    rows = dict(runtime.describe_runtime(content))
    assert rows[CPU] == "opens a session"
    assert rows["runtime"].startswith("onnxruntime")


def test_telemetry_is_disabled(tmp_path):
    """The runtime's telemetry would start with a file in the folder of temporary files, and contact a host later."""
    asked_for = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"}  # any of which would end it
    environment = {name: value for name, value in os.environ.items() if name not in asked_for}
    code = "import os, zoo; zoo.load('mnist14k'); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment | {"TMPDIR": str(tmp_path)},
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.stdout == "1\n", done.stderr
    assert list(tmp_path.iterdir()) == []
