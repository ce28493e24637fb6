"""A run's folder: config.json, environment.json, metrics.jsonl, checkpoint.safetensors, and result.json at the end."""

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
from zoo.errors import RunError, WrongUsage
from zoo.registry import home

JOB_KEYS = {"kind", "seed", "threads", "device", "processes", "teacher_sha256"}  # config of a run, not of its recipe


@dataclass(frozen=True)
class Run:
    """The files of one training run. Nothing is loaded by unpickling."""

    folder: Path

    @classmethod
    def of(cls, recipe: str, kind: Kind, seed: int, root: Path | None = None) -> "Run":
        """Return the run in `root/RECIPE/seedN` or `root/RECIPE/calibrationN` (no number for seed 0).

        Args:
            root: folder with the run folders, default `$ZOO_HOME/runs`.
        """
        name = f"seed{seed}" if kind == "full" else f"calibration{seed or ''}"
        return cls((root or home() / "runs") / recipe / name)

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def check_free(self, restart: bool = False, option: str = "--restart") -> None:
        """Raise RunError if the folder contains a run and `restart`, the command's `option`, is not set."""
        if self.checkpoint.exists() and not restart:
            raise RunError(
                f"{self.folder} already contains a run. Use --resume to continue it or {option} to replace it."
            )

    def begin(
        self, config: dict[str, Any], precision: str, restart: bool = False, device: dict[str, Any] | None = None
    ) -> None:
        """Start a new run in the folder. Raises RunError if it contains another run, unless `restart` is set.

        Args:
            precision: precision of the training steps on this machine, which may differ from the recipe's.
            restart: delete the files of the other run.
            device: facts about a device other than the CPU, for the environment.
        """
        self.check_free(restart)
        self.folder.mkdir(parents=True, exist_ok=True)
        old_files = (self.checkpoint, self.metrics_file, self.weights)
        for path in (*old_files, self.folder / "result.json", self.folder / "curves.png"):
            path.unlink(missing_ok=True)
        _write_json(self.folder / "config.json", config)
        _write_json(self.folder / "environment.json", {**environment(), "precision": precision, **(device or {})})

    def saved_config(self) -> dict[str, Any]:
        """Return the configuration of a run that can be resumed. Raises RunError."""
        if not self.checkpoint.exists():
            raise RunError(f"There is no checkpoint in {self.folder}. Omit --resume to start a new run.")
        return self.read("config")

    def check_config(self, config: dict[str, Any]) -> None:
        """Raise RunError if the run was started with another configuration."""
        saved = self.saved_config()
        if changed := sorted(key for key in saved.keys() | config.keys() if saved.get(key) != config.get(key)):
            changes = "; ".join(f"{key} was {saved.get(key)!r}, now {config.get(key)!r}" for key in changed)
            raise RunError(
                f"{self.folder} was started with other settings ({changes}). Use the same settings, or --restart to "
                "start again."
            )

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Raise RunError if the run was trained with other settings than its recipe has now."""
        config = self.read("config")
        for key in sorted(settings.keys() | config.keys() - JOB_KEYS):
            if config.get(key) != settings.get(key):
                old, new = (repr(values[key]) if key in values else "not set" for values in (config, settings))
                raise RunError(
                    f"{self.folder} was trained with other settings ({key} was {old}, now {new} in the recipe). Train "
                    f"it again with --restart{', or export it under another name with --as' * (key == 'epochs')}."
                )

    def has_settings(self, settings: dict[str, Any]) -> bool:
        """Return whether `check_settings` passes."""
        try:
            self.check_settings(settings)
        except RunError:
            return False
        return True

    def save_checkpoint(
        self, epoch: int, network: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
    ) -> None:
        """Write weights, average and optimizer state after `epoch` epochs, atomically."""
        tensors = _named("network", network) | (_named("average", average) if average else {})
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).contiguous()
        _save_tensors(tensors, self.checkpoint, {"epoch": str(epoch)})

    def load_checkpoint(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
    ) -> int:
        """Restore the state in place and drop the metrics of later epochs; return the number of finished epochs."""
        from safetensors import safe_open

        with safe_open(self.checkpoint, "pt") as file:
            epoch = int(file.metadata()["epoch"])
        tensors = load_file(self.checkpoint)
        for name, module in {"network": network, "average": average}.items():
            if module is not None:
                prefix = f"{name}."
                module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.keep_metrics(epoch)
        return epoch

    def keep_metrics(self, epoch: int) -> None:
        """Drop the metrics of later epochs."""
        lines = [line for line in self.metrics() if line["epoch"] <= epoch]
        self.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def measured_weights(self) -> tuple[dict[str, torch.Tensor], int]:
        """Return the weights that the checkpoint would be measured with, and the number of finished epochs.

        These are the averaged weights if the recipe has them.
        """
        from safetensors import safe_open

        with safe_open(self.checkpoint, "pt") as file:
            epochs = int(file.metadata()["epoch"])
        tensors = load_file(self.checkpoint)
        prefix = "average.module." if any(key.startswith("average.") for key in tensors) else "network."
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}, epochs

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    def metrics(self) -> list[dict[str, Any]]:
        """Return one dictionary per epoch, oldest first. An incomplete last line is ignored."""
        if not self.metrics_file.exists():
            return []
        return [json.loads(line) for line in self.metrics_file.read_text().splitlines() if line.endswith("}")]

    def add_metrics(self, line: dict[str, Any]) -> None:
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def finish(self, network: nn.Module, result: dict[str, Any]) -> None:
        """Write the final weights and the result."""
        _save_tensors({key: value.contiguous() for key, value in network.state_dict().items()}, self.weights)
        _write_json(self.folder / "result.json", result)

    def read(self, name: str) -> dict[str, Any]:
        """Return config, environment or result. Raises RunError if it is not there yet."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise RunError(f"There is no {name}.json in {self.folder}: the run does not exist or is not finished.")
        return _read_json(path)

    def save_options(self, **options: str | None) -> None:
        """Save options of the command that do not affect the weights, such as the data folder, for `--resume`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_json(self.folder / "command.json", options)

    def saved_option(self, name: str) -> str | None:
        path = self.folder / "command.json"
        return _read_json(path).get(name) if path.exists() else None

    @classmethod
    def unfinished(cls, recipe: str, root: Path | None = None) -> "Run":
        """Return a recipe's only unfinished run, for `--resume` without a seed.

        Raises:
            RunError: there is no unfinished run.
            WrongUsage: there are several.
        """
        folder = (root or home() / "runs") / recipe
        started = [path.parent for path in sorted(folder.glob("*/checkpoint.safetensors"))]
        unfinished = [run for run in started if not (run / "result.json").exists()]
        if not unfinished:
            finished = f" (finished: {', '.join(run.name for run in started)})" if started else ""
            raise RunError(f"There is no unfinished run in {folder}{finished}. Omit --resume to start a new run.")
        if len(unfinished) > 1:
            raise WrongUsage(
                f"Several runs of {recipe} are unfinished: {', '.join(run.name for run in unfinished)}. Choose one "
                "with --seed, and with --calibration-run if it is a calibration run."
            )
        return cls(unfinished[0])


def environment() -> dict[str, Any]:
    """Return the machine and the versions, for the run's folder and the card."""
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
    """Return the vector instructions that select the libraries' kernels; empty if the system does not list them."""
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "bf16")
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return " ".join(flag for flag in known if flag in flags)


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _named(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{key}": value.contiguous() for key, value in module.state_dict().items()}


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically."""
    with replacing(path) as partial:
        save_file(tensors, partial, metadata)


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
