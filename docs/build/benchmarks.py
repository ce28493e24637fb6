"""The tables of benchmarks, from the saved run (pytest-benchmark's JSON), LoadGen's results and the GPU results."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.loadgen import parse_summary
from bench.runtimes import RUNTIMES

RESULTS = Path(__file__).parents[1] / "benchmarks"
RUN = RESULTS / "run.json"
GPU_RESULTS = RESULTS / "gpu"
Row = dict[str, Any]

FASTER = 1.2  # other runtimes are listed if they are at least so many times as fast as ours
LOW_SHARE = 0.5  # of the GEMM peak; models below are listed
GPU_RUNTIMES = ("cuda", "tensorrt")
GPU_BATCHES = (1, 64, 256, 1024)
SCENARIO_FIGURES = {  # the line of LoadGen's summary that MLPerf reports, its unit, and its divisor
    "SingleStream": ("90.0th percentile latency (ns)", "ms, 90th percentile", 1e6),
    "MultiStream": ("99.0th percentile latency (ns)", "ms for 8 images, 99th percentile", 1e6),
    "Server": ("Completed samples per second", "images/s", 1),
    "Offline": ("Samples per second", "images/s", 1),
}
SERVING, SERVING_LITSERVE = "HTTP round trip, PNG to JSON", "HTTP round trip, PNG to JSON, beside LitServe"


@dataclass(frozen=True)
class SavedRun:
    """A saved run of the benchmarks."""

    rows: list[Row]  # extra_info of every benchmark, in the order of the run
    environment: dict[str, Any]
    commit: str
    date: str
    loadgen: list[Row]  # one per model and scenario

    def select(self, **values: Any) -> list[Row]:
        """The rows that have these values."""
        return [row for row in self.rows if all(row.get(key) == value for key, value in values.items())]

    def models(self, **values: Any) -> list[str]:
        """The models of these rows, each once."""
        return list(dict.fromkeys(row["model"] for row in self.select(**values)))


@cache
def read(run: Path = RUN, loadgen: Path = RESULTS / "loadgen") -> SavedRun:
    """Read a saved run. Raises OSError or ValueError if the file is missing or no JSON of pytest-benchmark."""
    content = json.loads(run.read_text(encoding="utf-8"))
    commit = content["commit_info"]
    return SavedRun(
        rows=[benchmark["extra_info"] for benchmark in content["benchmarks"]],
        environment=content["machine_info"],
        commit=f"{commit['id'][:12]}{', with uncommitted changes' if commit['dirty'] else ''}",
        date=content["datetime"][:10],
        loadgen=[json.loads(path.read_text(encoding="utf-8")) for path in sorted(loadgen.glob("*.json"))],
    )


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; the titles in `head` are separated by `|`."""
    titles = [title.strip() for title in head.split("|")]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [titles, ["---"] * len(titles), *rows])


def three_digits(row: Row, key: str = "p50_ms") -> str:
    """The value with three digits, or a dash if it was not measured or has too few samples."""
    return f"{row[key]:.3g}" if row.get(key) is not None else "–"


def summary(run: SavedRun) -> str:
    """For the README: the accuracy-latency plot and one line per model. int8 models have no PyTorch times to show."""
    shares = {row["model"]: row["share_of_peak"] for row in run.select(scope="array to label, every model")}
    rows = [
        [
            f"`{row['model']}`",
            three_digits(row["times"]["zoo.Model.run"]),
            f"{row['ratios']['session.run']:.2f}",
            _speed_up(row, "torch", "torch-channels-last"),
            _speed_up(row, "torch-compile"),
            f"{shares[row['model']]:.0%}" if row["model"] in shares else "–",
        ]
        for row in run.select(scope="array to label, in turn")
        if not row["model"].endswith("-int8")
    ]
    head = (
        "model | array to label, ms | time relative to `session.run` | "
        "speed-up over PyTorch eager (faster layout) | speed-up over torch.compile | share of GEMM peak"
    )
    plot = "![accuracy against latency and parameters](docs/benchmarks/pareto.png)"
    conditions = f"One image at a time, one thread, {run.environment['processor']}, p50; {run.date}."
    return f"{plot}\n\n{conditions}\n\n{table(head, rows)}"


def _speed_up(row: Row, *names: str, digits: int = 1) -> str:
    """How many times as fast `Model.run` is as the fastest of these, or a dash if none was measured."""
    ratios = [row["ratios"][name] for name in names if name in row["ratios"]]
    return f"{1 / max(ratios):.{digits}f}" if ratios else "–"


def environment(run: SavedRun) -> str:
    values = {**run.environment, "measured": f"{run.date}, commit {run.commit}"}
    return table("| ", ([name, "not installed" if value is None else value] for name, value in values.items()))


def promises(run: SavedRun) -> str:
    """Our time, and how many times as fast as each other way it is."""
    rows = []
    for row in run.select(scope="array to label, in turn"):
        ours = row["times"]["zoo.Model.run"]
        others = ("torch", "torch-channels-last", "torch-folded", "torch-compile")
        rows.append([
            f"`{row['model']}`",
            ours["n"],
            *(three_digits(ours, f"p{percent}_ms") for percent in (50, 90, 99)),
            f"{row['ratios']['session.run']:.3f}",
            *(_speed_up(row, name, digits=2) for name in others),
        ])  # fmt: skip
    return table(
        "model | n | `Model.run` to label p50, ms | p90 | p99 | time relative to `session.run` | "
        "speed-up over PyTorch eager (NCHW) | speed-up over channels_last | "
        "speed-up over channels_last with folded batch norm | speed-up over torch.compile",
        rows,
    )


def latency(run: SavedRun) -> str:
    """A table per model and batch size."""
    return "\n\n".join(
        f"`{model}`, batch {batch}:\n\n{_latency(run, model, batch)}"
        for model in run.models(scope="session only")
        for batch in sorted({row["batch"] for row in run.select(scope="session only", model=model)})
    )


def _latency(run: SavedRun, model: str, batch: int) -> str:
    rows = []
    for runtime in RUNTIMES:
        scopes = {row["scope"]: row for row in run.select(model=model, runtime=runtime, batch=batch)}
        if (session := scopes.get("session only")) is None:
            continue
        rows.append([
            f"`{runtime}`",
            session["threads"],
            session["n"],
            *(three_digits(session, f"p{percent}_ms") for percent in (50, 90, 99)),
            *(three_digits(scopes.get(scope, {})) for scope in ("array to label", "image bytes to label")),
            f"{batch / session['p50_ms'] * 1e3:,.0f}",
            f"{session['gflops']:.1f}",
            f"{session['share_of_peak']:.0%}",
            f"{session['peak_mb']:.0f}",
        ])  # fmt: skip
    return table(
        "runtime | threads | n | session p50, ms | p90 | p99 | array to label p50 | file to label p50 | images/s | "
        "GFLOP/s | share of GEMM peak | peak MB",
        rows,
    )


def runtimes(run: SavedRun) -> str:
    """The meaning of each runtime's name, what ran, and the largest difference of its logits from onnxruntime's."""
    rows, measured = [], run.select(scope="session only")
    for name, runtime in RUNTIMES.items():
        if own := [row for row in measured if row.get("runtime") == name]:
            difference = max(row["logits_off"] for row in own)
            rows.append([f"`{name}`", runtime.description, own[0]["provider"], f"{difference:.1g}"])
    missing = [name for name in GPU_RUNTIMES if not [row for row in measured if row.get("runtime") == name]]
    note = f"\n\nNot run: {' and '.join(f'`{name}`' for name in missing)}; there was no GPU." if missing else ""
    return table("runtime | description | what ran | largest difference of logits", rows) + note


def peers(run: SavedRun) -> str:
    """CPU runtimes in turn, and a line for each that is more than 20 % faster than ours."""
    measured = run.select(scope="session only, in turn")
    names = list(dict.fromkeys(name for row in measured for name in row["times"]))
    rows, faster = [], []
    for row in measured:
        times = {name: row["times"].get(name, {}) for name in names}
        rows.append([f"`{row['model']}`", row["batch"], *(three_digits(times[name]) for name in names)])
        for name, timing in times.items():
            if timing and (gain := times["onnxruntime"]["p50_ms"] / timing["p50_ms"]) > FASTER:
                threads = row["threads"][name]
                faster.append(
                    f"- `{name}` is {gain:.2f} times as fast for `{row['model']}` at batch {row['batch']}, on "
                    f"{threads} thread{'s' * (threads != 1)}."
                )
    heads = " | ".join(f"`{name}` p50, ms" for name in names)
    summary = "\n".join(faster) or "No other runtime is more than 20 % faster than onnxruntime on one thread."
    return f"{table(f'model | batch | {heads}', rows)}\n\n{summary}"


def shares(run: SavedRun) -> str:
    """Every measured model's share of the GEMM peak, and a line with those below half."""
    measured = run.select(scope="array to label, every model")
    rows = [
        [
            f"`{row['model']}`",
            f"{row['parameters']:,}",
            f"{row['macs']:,}",
            three_digits(row),
            three_digits(row, "p99_ms"),
            f"{row['gflops']:.1f}",
            f"{row['peak_gflops']:.1f}",
            f"{row['share_of_peak']:.0%}",
        ]
        for row in measured
    ]
    low = [f"`{row['model']}`" for row in measured if row["share_of_peak"] < LOW_SHARE]
    head = (
        "model | parameters | MACs | array to label p50, ms | p99 | GFLOP/s | GEMM peak, GFLOP/s | share of GEMM peak"
    )
    note = f"Below half of the GEMM peak: {', '.join(low)}." if low else "No model is below half of the GEMM peak."
    return f"{table(head, rows)}\n\n{note}"


def loadgen(run: SavedRun) -> str:
    rows = []
    for result in run.loadgen:
        log = parse_summary(result["log"])
        name, unit, divisor = SCENARIO_FIGURES[result["scenario"]]
        value = float(log[name]) / divisor
        if limit := float(log["target_latency (ns)"]) / 1e6:
            unit += f", 99% within {limit:g} ms"
        rows.append([
            f"`{result['model']}`",
            result["scenario"],
            log["Result is"],
            f"{value:,.0f}" if value >= 1000 else f"{value:.3g}",
            unit,
            result["threads"],
            f"{result['min_duration_s']:g} s, {result['min_queries']:,} queries",
            f"{result['accuracy']:.2%} of {result['asked']:,}",
        ])  # fmt: skip
    return table("model | scenario | result | figure | unit | threads | at least | accuracy mode", rows)


def training(run: SavedRun) -> str:
    rows = [
        [f"`{row['model']}`", row["batch"], row["n"], three_digits(row), f"{row['images_per_s']:,.0f}", row["provider"]]
        for row in run.select(scope="training step")
    ]
    rows += [
        [
            f"`{row['model']}`, {row['epochs']} epochs: {row['accuracy']:.2%} in {row['training_s']:.0f} s",
            *["–"] * 5,
        ]
        for row in run.select(scope="training to an accuracy")
    ]
    return table("recipe | batch | steps | ms per step, p50 | images/s | on one thread", rows)


def serving(run: SavedRun) -> str:
    closed = "closed loop, 32 connections"
    rows = []
    for row in run.select(scope=SERVING):
        rows += [
            [
                "`zoo serve`",
                closed,
                _middle(row["ours_per_second"]),
                three_digits(row, "ours_p50_ms"),
                three_digits(row, "ours_p99_ms"),
            ],
            ["FastAPI, Pillow and `session.run` under uvicorn", closed, _middle(row["plain_per_second"]), "–", "–"],
            [
                "`zoo serve`",
                "Poisson arrivals at half of that rate",
                f"{row['open_loop_rate']:,}",
                three_digits(row["open_loop"]),
                three_digits(row["open_loop"], "p99_ms"),
            ],
        ]
    for row in run.select(scope=SERVING_LITSERVE):
        rows.append(["LitServe, one worker", closed, _middle(row["litserve_per_second"]), "–", "–"])
    return table("server | requests | requests/s | p50, ms | p99, ms", rows)


def batches(run: SavedRun) -> str:
    """Batches beside their limit, and CPU time per image by process and stage."""
    rows = []
    for row in run.rows:
        if "share_of_the_limit" in row:
            stages = row["stages_us_per_image"]
            rows.append([
                row["scope"].split(",")[0],
                f"`{row['model']}`",
                f"{row['images_per_s']:,}",
                f"{row['limit_images_per_s']:,}",
                f"{row['share_of_the_limit']:.2f}",
                f"{row['parent_us_per_image']:.1f}",
                f"{row['worker_us_per_image']:.0f}",
                f"{stages['read, decode and check']:.1f}",
                f"{stages['network']:.1f}",
                f"{stages['columns'] + stages['Arrow']:.1f}",
            ])  # fmt: skip
    return table(
        "from | model | images/s | network alone, images/s | share | parent, µs | workers, µs | decode and check, µs "
        "| network, µs | columns and Arrow, µs",
        rows,
    )


def _middle(values: list[int]) -> str:
    return f"{sorted(values)[len(values) // 2]:,}"


def ratios(run: SavedRun) -> str:
    """The ratios that no other table has."""
    shown = {"array to label, every model", "array to label, in turn"}
    rows = [
        [row["scope"], f"`{row.get('model', row.get('files'))}`", name, f"{value:.2f}"]
        for row in run.rows
        if "scope" in row and row["scope"] not in shown and "runtime" not in row
        for name, value in row.get("ratios", {}).items()
    ]
    return table("scope | model or files | ratio, less is better | measured", rows)


TABLES: dict[str, Callable[[SavedRun], str]] = {
    function.__name__: function
    for function in (
        summary, environment, promises, latency, runtimes, peers, shares, loadgen, training, serving, batches, ratios,
    )
}  # fmt: skip


# GPU results of `python -m bench.on_gpu`


def gpu(folder: Path = GPU_RESULTS) -> str:
    """Every step that has a result: the machine once, then tables and sentences that name their commit."""
    parts: list[str] = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (path.name.split("-")[0], -path.stat().st_size)):
        steps = json.loads(path.read_text(encoding="utf-8"))["steps"]
        # A step that failed keeps the rows that it had by then
        results = {name: step.get("result", step.get("rows")) for name, step in steps.items()}
        results = {name: result for name, result in results.items() if result is not None}
        machine = results["machine"]
        name, driver, _ = (part.strip() for part in machine["gpu"].split(","))
        heading = (
            f"On {name} (driver {driver}) with {machine['cores']} CPU cores, onnxruntime-gpu "
            f"{machine['onnxruntime-gpu']}, torch {machine['torch']}, Python {machine['python']}:"
        )
        if heading not in parts:
            parts.append(heading)
        source = f"commit {machine['commit']}, {machine['date']}"
        parts += _gpu_parts(results, source)
        if failed := [f"`{name}` ({_last_line(step['error'])})" for name, step in steps.items() if "error" in step]:
            parts.append(f"Steps that failed or had no time left: {', '.join(failed)} ({source}).")
    return "\n\n".join(parts)


def _last_line(error: str) -> str:
    return error.strip(" :\n").splitlines()[-1][:100]


def _gpu_parts(results: dict[str, Any], source: str) -> list[str]:
    parts = []
    for model, rows in _rows_by_model(results).items():
        parts.append(f"`{model}`, p50 in ms by batch size ({source}):\n\n{gpu_latency(rows)}")
    if "parity" in results:
        parts.append(f"On the whole test sets, CUDA against the CPU ({source}):\n\n{_gpu_parity(results['parity'])}")
    if "serve" in results:
        parts.append(
            f"`zoo serve` with one model, from one machine, every response checked ({source}):\n\n"
            f"{_gpu_servers(results['serve'])}"
        )
    if "piles" in results:
        parts.append(f"60,000 images from parquet to parquet ({source}):\n\n{_gpu_batch_runs(results['piles'])}")
    if "first_run" in results:
        head = "model | batch | session opens, s | first run, s"
        lines = [[f"`{r['model']}`", r["batch"], r["open_s"], r["first_run_s"]] for r in results["first_run"]]
        parts.append(f"Start in a fresh process ({source}):\n\n{table(head, lines)}")
    if times := results.get("predict"):
        parts.append(
            f"`zoo predict` of one image takes {times['auto_s']:.2f} s with `--device auto`, {times['cpu_s']:.2f} s "
            f"with `cpu` and {times['cuda_s']:.2f} s with `cuda` (median of three; {source})."
        )
    if speed := results.get("training_speed"):
        one, five = speed["seeds_1"], speed["seeds_5"]
        parts.append(
            f"A training step of cifar90k.plus, batch {speed['batch']}, takes {one['step_ms']:.2f} ms for one seed "
            f"({one['images_per_s']:,} images/s) and {five['step_ms']:.2f} ms for five at once "
            f"({five['images_per_s']:,} images/s together), on random images ({source})."
        )
    if result := results.get("repeatable"):
        same = "the same bits" if result["same_bits"] else "different bits"
        parts.append(f"One epoch of cifar90k.plus, trained twice with the same seed, gave {same} ({source}).")
    if result := results.get("training"):
        accuracies = ", ".join(f"{accuracy:.2%}" for accuracy in result["accuracies"])
        parts.append(
            f"{result['recipe']}, {result['results'][0]['epochs']} epochs with {result['n']} seeds at once, took "
            f"{result['wall_s']:.0f} s: {accuracies}; mean {result['mean']:.2%}, standard deviation "
            f"{result['sd']:.2%}, n = {result['n']}, last epoch, all 10,000 test images, read once ({source})."
        )
    return parts


def _rows_by_model(results: dict[str, Any]) -> dict[str, list[Row]]:
    """The rows of all steps that measure latencies, by model."""
    models: dict[str, list[Row]] = {}
    for name, rows in results.items():
        if name.startswith(("latency-", "compiled-", "options-")):
            for row in rows:
                models.setdefault(row["model"], []).append(row)
    return models


def _gpu_servers(rows: list[Row]) -> str:
    """A line per model, server and number of connections."""
    processes = {"1": "one process", "auto": "one process per core"}
    lines = [
        [
            f"`{row['model']}`",
            f"{row['device']}, {processes.get(row['workers'], row['workers'] + ' processes')}",
            row["connections"],
            f"{row['per_second']:,}",
            *(three_digits(row, key) for key in ("p50_ms", "p99_ms")),
        ]
        for row in rows
    ]
    return table("model | server | connections | requests/s | p50 ms | p99 ms", lines)


def gpu_latency(rows: list[Row]) -> str:
    """A line per way, a column per batch size; a dash for what was not measured."""
    ways = dict.fromkeys(row["way"] for row in rows)
    times = {(row["way"], row["batch"]): row for row in rows}
    lines = [[way, *(three_digits(times.get((way, batch), {})) for batch in GPU_BATCHES)] for way in ways]
    return table("way | " + " | ".join(map(str, GPU_BATCHES)), lines)


def _gpu_parity(rows: list[Row]) -> str:
    """A line per model, and the models that CUDA refuses."""
    lines = [
        [
            f"`{row['model']}`",
            f"{row['accuracy']:.2%}",
            row["labels_differ"],
            f"{row['logits_off']:.0e}",
            *(f"{row[key]:,}" if (key := f"per_second_{batch}") in row else "–" for batch in (1024, 4096)),
        ]
        for row in rows
        if "refused" not in row
    ]
    refused = ", ".join(f"`{row['model']}`" for row in rows if "refused" in row)
    head = "model | accuracy | labels that differ | largest difference of logits | images/s, batch 1,024 | batch 4,096"
    return table(head, lines) + (f"\n\nRefused on CUDA: {refused}." if refused else "")


def _gpu_batch_runs(rows: list[Row]) -> str:
    """A line per model and device, the better of its runs."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row["model"], row["device"]
        best[key] = max(best.get(key, row), row, key=lambda other: other["per_second"])
    lines = [[f"`{model}`", device, f"{row['per_second']:,}", row["wall_s"]] for (model, device), row in best.items()]
    return table("model | device | images/s | seconds of the command", lines)


def page_data(run: SavedRun) -> str:
    """JSON for the Benchmarks tab of the page: latency and accuracy of every model, and the machine."""
    keys = ("model", "dataset", "default", "parameters", "accuracy", "p50_ms", "n")
    rows = [{key: row.get(key) for key in keys} for row in run.select(scope="array to label, every model")]
    machine = f"{run.environment['cores']} cores, {run.environment['processor']}"
    content = {"machine": machine, "commit": run.commit, "date": run.date, "rows": rows}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
