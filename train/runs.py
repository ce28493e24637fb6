"""A run's folder: config.json, environment.json, metrics.jsonl, checkpoint.safetensors, and in the end result.json."""

import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from train.data import Kind
from zoo.atomic import replacing
from zoo.errors import WrongUsage, ZooError
from zoo.registry import home

OF_THE_JOB = (
    "kind",
    "seed",
    "threads",
    "device",
    "teacher_sha256",
)  # what a run's config tells beside its recipe's settings


class RunError(ZooError):
    """A run that cannot be started or continued; the message says why."""


@dataclass(frozen=True)
class Run:
    """Names the files of one training run, and reads and writes them; nothing is loaded by unpickling."""

    folder: Path

    @classmethod
    def of(cls, recipe: str, kind: Kind, seed: int, root: Path | None = None) -> "Run":
        """The folder of a run under `root`, by default `$ZOO_HOME/runs`; `twin` is the twin of seed 0."""
        name = f"seed{seed}" if kind == "full" else f"twin{seed or ''}"
        return cls((root or home() / "runs") / recipe / name)

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def check_free(self, restart: bool = False) -> None:
        """Refuse to begin where another run lies, unless `restart` throws that away."""
        if self.checkpoint.exists() and not restart:
            raise RunError(f"{self.folder} holds a run already: --resume continues it, --restart replaces it.")

    def begin(
        self, config: dict[str, Any], precision: str, restart: bool = False, device: dict[str, Any] | None = None
    ) -> None:
        """Start afresh: the folder must not hold another run, unless `restart` throws that away.

        Args:
            precision: in which the steps are computed here, whatever the recipe asks for.
            device: what is to be known of a device other than the CPU.
        """
        self.check_free(restart)
        self.folder.mkdir(parents=True, exist_ok=True)
        left_over = (self.checkpoint, self.metrics_file, self.weights)
        for path in (*left_over, self.folder / "result.json", self.folder / "curves.png"):
            path.unlink(missing_ok=True)
        _write_json(self.folder / "config.json", config)
        _write_json(self.folder / "environment.json", {**environment(), "precision": precision, **(device or {})})

    def begun_with(self) -> dict[str, Any]:
        """The configuration of a run that can be resumed. Raises RunError."""
        if not self.checkpoint.exists():
            raise RunError(f"{self.folder} holds no checkpoint to resume: leave --resume out to begin there.")
        return self.read("config")

    def check_same(self, config: dict[str, Any]) -> None:
        """Refuse to continue a run with other settings than it was begun with."""
        begun = self.begun_with()
        if other := sorted(key for key in begun.keys() | config.keys() if begun.get(key) != config.get(key)):
            said = "; ".join(f"{key} was {begun.get(key)!r} and is {config.get(key)!r}" for key in other)
            raise RunError(
                f"{self.folder} was begun with other settings ({said}): use the same, or begin anew, with --restart or "
                "by deleting the folder."
            )

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Refuse a run that was trained with other settings than these, which its recipe has now."""
        config = self.read("config")
        for key in sorted(settings.keys() | config.keys() - {*OF_THE_JOB}):
            if config.get(key) != settings.get(key):
                was, now = (f"{told[key]!r}" if key in told else "not set" for told in (config, settings))
                raise RunError(
                    f"{self.folder} was trained with {key} {was}, and in its recipe that is {now} now: train it again "
                    f"with --restart{', or export it as your own, with --as NAME' if key == 'epochs' else ''}."
                )

    def has_settings(self, settings: dict[str, Any]) -> bool:
        """Whether `check_settings` has nothing against it."""
        try:
            self.check_settings(settings)
        except RunError:
            return False
        return True

    def save_checkpoint(
        self, epoch: int, network: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
    ) -> None:
        """Write weights, average and optimizer state after `epoch` epochs; the file appears whole or not at all."""
        tensors = _named("network", network) | (_named("average", average) if average else {})
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).contiguous()
        _save_whole(tensors, self.checkpoint, {"epoch": str(epoch)})

    def load_checkpoint(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
    ) -> int:
        """Restore all in place; returns the number of epochs done. Later epochs' metrics lines are dropped."""
        from safetensors import safe_open

        with safe_open(self.checkpoint, "pt") as file:
            epoch = int(file.metadata()["epoch"])
        tensors = load_file(self.checkpoint)
        for name, module in {"network": network, "average": average}.items():
            if module is not None:
                start = f"{name}."
                module.load_state_dict({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        kept = [line for line in self.metrics() if line["epoch"] <= epoch]
        self.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return epoch

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary an epoch, oldest first."""
        if not self.metrics_file.exists():
            return []
        return [json.loads(line) for line in self.metrics_file.read_text().splitlines() if line.endswith("}")]

    def add_metrics(self, line: dict[str, Any]) -> None:
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def finish(self, network: nn.Module, result: dict[str, Any]) -> None:
        """Write the final weights and what they reach."""
        _save_whole({key: value.contiguous() for key, value in network.state_dict().items()}, self.weights)
        _write_json(self.folder / "result.json", result)

    def read(self, name: str) -> dict[str, Any]:
        """config, environment or result. Raises RunError where the run has not come so far."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise RunError(f"{self.folder} has no {name}.json: the run is not there or not finished.")
        return json.loads(path.read_text())

    def remember(self, **options: str | None) -> None:
        """Keep options of the command that decide no weights, such as where the data lie, for `--resume`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_json(self.folder / "command.json", options)

    def remembered(self, option: str) -> str | None:
        path = self.folder / "command.json"
        return json.loads(path.read_text()).get(option) if path.exists() else None

    @classmethod
    def unfinished(cls, recipe: str, root: Path | None = None) -> "Run":
        """The one run of a recipe that has begun and not ended, for `--resume` without a seed.

        Raises:
            RunError: there is none. WrongUsage: there are several.
        """
        folder = (root or home() / "runs") / recipe
        begun = [path.parent for path in sorted(folder.glob("*/checkpoint.safetensors"))]
        found = [run for run in begun if not (run / "result.json").exists()]
        if not found:
            ended = f"; finished: {', '.join(run.name for run in begun)}" if begun else ""
            raise RunError(f"{folder} holds no unfinished run to resume{ended}: leave --resume out to begin one.")
        if len(found) > 1:
            raise WrongUsage(
                f"Several runs of {recipe} are unfinished ({', '.join(run.name for run in found)}): choose one with "
                "--seed, and --twin if it is one."
            )
        return cls(found[0])


def environment() -> dict[str, Any]:
    """Machine and versions, for the run's folder and the card."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": _processor(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _instructions() -> str:
    """The vector instructions that libraries choose their kernels by; none where the system does not tell."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "bf16")
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return " ".join(flag for flag in wanted if flag in flags)


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _named(start: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{start}.{key}": value.contiguous() for key, value in module.state_dict().items()}


def _save_whole(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that appears whole or not at all."""
    with replacing(path) as partial:
        save_file(tensors, partial, metadata)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
