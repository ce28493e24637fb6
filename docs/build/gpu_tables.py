"""What GPU machines showed → Markdown, from the files that `python -m bench.on_gpu` wrote, in docs/benchmarks/gpu."""

import json
from pathlib import Path
from typing import Any

from docs.build.benchmark_run import RESULTS
from docs.build.benchmark_tables import table

FOLDER = RESULTS / "gpu"
BATCHES = (1, 64, 256, 1024)


def report(folder: Path = FOLDER) -> str:
    """Every step that has a result: the machine once, then paragraphs and tables that name their commit."""
    parts: list[str] = []
    for path in sorted(folder.glob("*.json"), key=_order):
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        found = {name: step["result"] for name, step in steps.items() if "result" in step}
        machine = found["machine"]
        if (described := f"On {_machine(machine)}:") not in parts:
            parts.append(described)
        parts += _parts(found, f"commit {machine['commit']}, {machine['date']}")
    return "\n\n".join(parts)


def _order(path: Path) -> tuple[str, int]:
    """By machine, then by how much was measured: the fullest file first."""
    return path.name.split("-")[0], -path.stat().st_size


def _machine(machine: dict[str, Any]) -> str:
    name, driver, _ = (part.strip() for part in machine["gpu"].split(","))
    return (
        f"{name} (driver {driver}) with {machine['cores']} CPU cores, onnxruntime-gpu {machine['onnxruntime-gpu']}, "
        f"torch {machine['torch']}, Python {machine['python']}"
    )


def _parts(found: dict[str, Any], where: str) -> list[str]:
    parts = []
    for name, rows in found.items():
        if name.startswith("latency-"):
            parts.append(f"`{rows[0]['model']}`, p50 in ms by batch size ({where}):\n\n{latency(rows)}")
    if "parity" in found:
        parts.append(f"On the whole test sets, CUDA against the CPU ({where}):\n\n{parity(found['parity'])}")
    if "piles" in found:
        parts.append(f"60,000 images from parquet to parquet ({where}):\n\n{piles(found['piles'])}")
    if "predict" in found:
        times = found["predict"]
        parts.append(
            f"`zoo predict` of one picture takes {times['auto_s']:.2f} s with `--device auto`, {times['cpu_s']:.2f} s "
            f"with `cpu` and {times['cuda_s']:.2f} s with `cuda` (median of three; {where})."
        )
    if "training_speed" in found:
        speed = found["training_speed"]
        one, five = speed["seeds_1"], speed["seeds_5"]
        parts.append(
            f"A training step of cifar90k.plus, batch {speed['batch']}, takes {one['step_ms']:.2f} ms for one seed "
            f"({one['images_per_s']:,} images/s) and {five['step_ms']:.2f} ms for five side by side "
            f"({five['images_per_s']:,} images/s together), on made-up images ({where})."
        )
    if "training" in found:
        parts.append(f"{training(found['training'])} ({where}).")
    return parts


def latency(rows: list[dict[str, Any]]) -> str:
    """A line for each way, a column for each batch size; a dash for what was not measured."""
    ways = dict.fromkeys(row["way"] for row in rows)
    times = {(row["way"], row["batch"]): row.get("p50_ms") for row in rows}
    lines = [[way, *(_three(times.get((way, batch))) for batch in BATCHES)] for way in ways]
    return table("way | " + " | ".join(map(str, BATCHES)), lines)


def parity(rows: list[dict[str, Any]]) -> str:
    """A line for each model: accuracy, labels that differ, logits apart, images/s; or why it was refused."""
    lines = [
        [f"`{row['model']}`", f"{row['accuracy']:.2%}", row["labels_differ"], f"{row['logits_off']:.0e}",
         *(f"{row[f'per_second_{batch}']:,}" for batch in (1024, 4096))]
        for row in rows if "refused" not in row
    ]  # fmt: skip
    refused = ", ".join(f"`{row['model']}`" for row in rows if "refused" in row)
    head = "model | accuracy | labels that differ | logits apart by up to | images/s, batch 1,024 | batch 4,096"
    return table(head, lines) + (f"\n\nRefused on CUDA: {refused}." if refused else "")


def piles(rows: list[dict[str, Any]]) -> str:
    """A line for each model and device, the better of its runs."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["model"], row["device"]
        best[key] = max(best.get(key, row), row, key=lambda one: one["per_second"])
    lines = [[f"`{model}`", device, f"{row['per_second']:,}", row["wall_s"]] for (model, device), row in best.items()]
    return table("model | device | images/s | seconds of the command", lines)


def training(result: dict[str, Any]) -> str:
    """One sentence: how long, and what the seeds reach."""
    each = ", ".join(f"{accuracy:.2%}" for accuracy in result["accuracies"])
    epochs = result["results"][0]["epochs"]
    return (
        f"{result['recipe']}, {epochs} epochs with {result['n']} seeds side by side, took {result['wall_s']:.0f} s: "
        f"{each}; mean {result['mean']:.2%}, standard deviation {result['sd']:.2%}, n = {result['n']}, last epoch, all "
        "10,000 test images, read once"
    )


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
