"""What this machine computes with: the device that `--device auto` takes and why, and how many cores may be used."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.errors import DeviceUnavailable
from zoo.model import CHUNK, Model, bind, load
from zoo.runtime import Device, has_cuda

CUDA_FROM = 200_000  # images: fewer are answered by the CPU's cores before a GPU has caught up (0014-gpu.md)
GPU_BATCH = 1024
TRIALS = 20


def load_for(name: str, device: Device, count: int | None) -> Model:
    """Open a model where `count` images are answered sooner; None for an unknown number, which may be small.

    Raises what `zoo.load` does; "auto" never fails for want of a GPU.
    """
    if device == "auto" and count is not None and count >= CUDA_FROM and has_cuda():
        try:
            return load(name, "cuda")
        except DeviceUnavailable:
            pass
    return load(name, device)


@dataclass(frozen=True)
class Speed:
    """open_s: until a session is there. first_ms, one_ms: the first answer and a later one, of one image.

    per_second: images through the network alone; on a CPU on one core, in the chunks that batches use.
    """

    device: Device
    open_s: float
    first_ms: float
    one_ms: float
    per_second: float

    def __str__(self) -> str:
        rate = f"{self.per_second:,.0f} images/s{' a core' if self.device == 'cpu' else ''}"
        return (
            f"opens in {self.open_s:.2f} s, first answer {self.first_ms:.1f} ms, then {self.one_ms:.2f} ms; "
            f"network alone {rate}"
        )


def measure(content: bytes, device: Device) -> Speed:
    """Time a model of the zoo on a device, best of some. Raises DeviceUnavailable, BadModel."""
    started = time.perf_counter()
    model = Model(content, device, "the model")
    open_s = time.perf_counter() - started
    size = GPU_BATCH if device == "cuda" else CHUNK
    images = np.zeros((size, *model.card.input.shape), np.uint8)
    one = bind(model, 1) if device == "cuda" else model
    many = bind(model, size) if device == "cuda" else model
    first = _best(lambda: one.run(images[:1]), 1)
    return Speed(
        device,
        open_s,
        first * 1e3,
        _best(lambda: one.run(images[:1])) * 1e3,
        size / _best(lambda: many.run(images)),
    )


def cuda_is_faster_from(cpu: Speed, cuda: Speed, processes: int | None = None) -> int | None:
    """How many images the network alone must answer until the GPU has made up for its start; None: never.

    processes: of the CPU path, by default one a core.
    """
    saved = 1 / (cpu.per_second * (processes or cores())) - 1 / cuda.per_second
    later = (cuda.open_s + cuda.first_ms / 1e3) - (cpu.open_s + cpu.first_ms / 1e3)
    return None if saved <= 0 else max(0, round(later / saved))


def _best(call: Callable[[], object], trials: int = TRIALS) -> float:
    times = []
    for _ in range(trials):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def describe(content: bytes) -> list[tuple[str, str]]:
    """Rows for `zoo doctor`: how fast each device is, and from which count on `auto` takes which."""
    speeds: dict[Device, Speed] = {}
    rows = []
    devices: tuple[Device, ...] = ("cpu", "cuda") if has_cuda() else ("cpu",)
    for device in devices:
        try:
            speeds[device] = measure(content, device)
        except DeviceUnavailable:
            continue  # describe_runtime has said why
        rows.append((device, str(speeds[device])))
    if "cuda" not in speeds:
        return [*rows, ("auto", "cpu, always")]
    number = cuda_is_faster_from(speeds["cpu"], speeds["cuda"])
    here = "never here, for this model" if number is None else f"from {number:,} images on here, for this model"
    return [*rows, ("auto", f"cpu; cuda from {CUDA_FROM:,} images on (its network alone is ahead {here})")]


def cores(root: Path = Path("/")) -> int:
    """How many cores this process may use: its affinity and the quota of its control groups, rounded up."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(affinity, math.ceil(min(_quotas(root), default=affinity))))


def _quotas(root: Path) -> Iterator[float]:
    """The cores' worth of time that each control group of this process allows, from its own group up to the first.

    https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and cgroup-v1 (cpu.cfs_quota_us). Where a container
    hides the path of its group, the group is what is mounted.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        for name in ("", "unified") if number == "0" else (controllers, "cpu"):
            mount = root / "sys/fs/cgroup" / name
            group = mount / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(mount):
                    yield from _quota(folder)


def _quota(group: Path) -> Iterator[float]:
    v1 = f"{_text(group / 'cpu.cfs_quota_us')} {_text(group / 'cpu.cfs_period_us')}"
    for text in (_text(group / "cpu.max"), v1):
        quota, _, period = text.partition(" ")
        if quota.isdecimal() and period.strip().isdecimal():  # not "max", nor -1, which means the same
            yield int(quota) / max(int(period), 1)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
