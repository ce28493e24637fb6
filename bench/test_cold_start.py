"""From the command line to a result: `zoo predict one.png` beside the least that such a program must do.

    pytest bench/test_cold_start.py --benchmark-only

The minimum is a Python process that imports onnxruntime and Pillow and opens the same model.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.measure import run_process
from zoo import registry

PAIRS = 15


def test_cold_start_beside_minimum(benchmark: Any, seven: Path) -> None:
    command = Path(sys.executable).with_name("zoo")
    if not command.exists():
        pytest.skip("the command `zoo` is not installed: pip install -e '.[dev]'")
    ours = [str(command), "predict", str(seven), "--model", "mnist14k", "--format", "jsonl"]
    path = registry.find("mnist14k").folder / "model.onnx"
    minimum = [sys.executable, "-c", f"import onnxruntime, PIL.Image; onnxruntime.InferenceSession({str(path)!r})"]

    run_process(ours), run_process(minimum)
    pairs = [(run_process(ours), run_process(minimum)) for _ in range(PAIRS)]
    seconds = np.array([[process.seconds for process in pair] for pair in pairs])
    peaks = np.array([[process.peak_mb for process in pair] for pair in pairs])
    ratio, memory_ratio = (float(np.median(figures[:, 0]) / np.median(figures[:, 1])) for figures in (seconds, peaks))
    benchmark.extra_info |= {
        "scope": "command to label, new process", "n": PAIRS, "batch": 1, "model": "mnist14k",
        "ours_p50_ms": round(float(np.median(seconds[:, 0])) * 1e3, 1),
        "floor_p50_ms": round(float(np.median(seconds[:, 1])) * 1e3, 1),
        "ours_peak_mb": round(float(np.median(peaks[:, 0])), 1),
        "floor_peak_mb": round(float(np.median(peaks[:, 1])), 1),
        "ratios": {"time over the floor's": round(ratio, 3), "memory over the floor's": round(memory_ratio, 3)},
    }  # fmt: skip
    process = benchmark.pedantic(run_process, args=(ours,), rounds=5)
    assert json.loads(process.output)["label"] == "7"
    assert ratio <= 2.0  # measured 1.40 to 1.47 here, 1.74 to 1.84 on other machines; the aim is 1.35
    assert memory_ratio <= 1.6  # measured 1.55
