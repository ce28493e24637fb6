"""Devices and cores: which device `--device auto` selects, how fast each device is, how many cores may be used."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.classification import CHUNK
from zoo.errors import DeviceUnavailable
from zoo.loading import load
from zoo.model import Model, bind
from zoo.runtime import Device, has_cuda

CUDA_MIN_IMAGES = 200_000  # for fewer images the CPU finishes first (docs/decisions/0014-gpu.md)
GPU_BATCH_SIZE = 1024
TRIALS = 20


def load_for(name: str, device: Device, count: int | None) -> Model:
    """Open a model on the device that classifies `count` images sooner.

    Args:
        name: As for `zoo.load`.
        device: "auto" selects CUDA for `CUDA_MIN_IMAGES` images or more, and the CPU if CUDA cannot be used.
        count: Number of images; None if unknown, which selects the CPU.
    Raises:
        As `zoo.load` does.
    """
    if device == "auto" and count is not None and count >= CUDA_MIN_IMAGES and has_cuda():
        try:
            return load(name, "cuda")
        except DeviceUnavailable:
            pass
    return load(name, device)


@dataclass(frozen=True)
class Speed:
    """How fast a model runs on a device."""

    device: Device
    open_s: float  # time to open a session
    first_ms: float  # first run, one image
    one_ms: float  # later runs, one image
    per_second: float  # images per second, network only; on a CPU with one core and the chunks that batches use

    def __str__(self) -> str:
        rate = f"{self.per_second:,.0f} images/s{' per core' if self.device == 'cpu' else ''}"
        return (
            f"session opens in {self.open_s:.2f} s, first run {self.first_ms:.1f} ms, then {self.one_ms:.2f} ms; "
            f"network only {rate}"
        )


def measure(content: bytes, device: Device) -> Speed:
    """Time a model, given as the content of its ONNX file, on a device: the best of `TRIALS` runs.

    Raises:
        DeviceUnavailable, BadModel.
    """
    started = time.perf_counter()
    model = Model(content, device, "the model")
    open_s = time.perf_counter() - started
    size = GPU_BATCH_SIZE if device == "cuda" else CHUNK
    images = np.zeros((size, *model.card.input.shape), np.uint8)
    single = bind(model, 1) if device == "cuda" else model
    batched = bind(model, size) if device == "cuda" else model
    first = _best_seconds(lambda: single.run(images[:1]), 1)
    return Speed(
        device,
        open_s,
        first * 1e3,
        _best_seconds(lambda: single.run(images[:1])) * 1e3,
        size / _best_seconds(lambda: batched.run(images)),
    )


def cuda_is_faster_from(cpu: Speed, cuda: Speed, processes: int | None = None) -> int | None:
    """Number of images from which the GPU is faster in spite of its slower start, network only; None: never.

    Args:
        processes: Of the CPU path; one per core by default.
    """
    saved_per_image = 1 / (cpu.per_second * (processes or cores())) - 1 / cuda.per_second
    start_delay = (cuda.open_s + cuda.first_ms / 1e3) - (cpu.open_s + cpu.first_ms / 1e3)
    return None if saved_per_image <= 0 else max(0, round(start_delay / saved_per_image))


def _best_seconds(call: Callable[[], object], trials: int = TRIALS) -> float:
    times = []
    for _ in range(trials):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def describe(content: bytes) -> list[tuple[str, str]]:
    """Rows for `zoo doctor`: the speed of each device, and which one `auto` selects."""
    speeds: dict[Device, Speed] = {}
    rows = []
    devices: tuple[Device, ...] = ("cpu", "cuda") if has_cuda() else ("cpu",)
    for device in devices:
        try:
            speeds[device] = measure(content, device)
        except DeviceUnavailable:
            continue  # describe_runtime reports the reason
        rows.append((device, str(speeds[device])))
    if "cuda" not in speeds:
        return [*rows, ("auto", "always uses the CPU, because CUDA is not available")]
    count = cuda_is_faster_from(speeds["cpu"], speeds["cuda"])
    break_even = "never faster" if count is None else f"faster from {count:,} images"
    return [
        *rows,
        (
            "auto",
            f"uses the CPU, and CUDA for {CUDA_MIN_IMAGES:,} images or more "
            f"(measured with the smallest model, network only: CUDA is {break_even})",
        ),
    ]


def cores(root: Path = Path("/")) -> int:
    """Number of cores that this process may use: its CPU affinity and cgroup quotas, rounded up."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, math.ceil(min(_cgroup_quotas(root), default=affinity))))


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """CPU quotas, in cores, of this process's cgroup and all its parents.

    https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and cgroup-v1 (cpu.cfs_quota_us). Where a container
    hides the path of its cgroup, the mounted root is that cgroup.
    """
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        for name in ("", "unified") if number == "0" else (controllers, "cpu"):
            mount = root / "sys/fs/cgroup" / name
            group = mount / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(mount):
                    yield from _read_quota(folder)


def _read_quota(group: Path) -> Iterator[float]:
    v1 = f"{_read_text(group / 'cpu.cfs_quota_us')} {_read_text(group / 'cpu.cfs_period_us')}"
    for text in (_read_text(group / "cpu.max"), v1):
        quota, _, period = text.partition(" ")
        if quota.isdecimal() and period.strip().isdecimal():  # "max" and -1 mean no limit
            yield int(quota) / max(int(period), 1)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
