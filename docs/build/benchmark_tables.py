"""Rows of a saved run → the tables and sentences of the documentation, in Markdown."""

from collections.abc import Iterable

from bench.loadgen import summary_of
from bench.runtimes import RUNTIMES
from docs.build.benchmark_run import Row, Saved

BEATS = 1.2  # another runtime is worth a word where it is so many times as fast as ours
HALF = 0.5  # of the measured peak, below which a reason is due
GPU = ("cuda", "tensorrt")
SCENARIO_FIGURES = {  # the line of LoadGen's summary that MLPerf reports, its unit, and what to divide it by
    "SingleStream": ("90.0th percentile latency (ns)", "ms, 90th percentile", 1e6),
    "MultiStream": ("99.0th percentile latency (ns)", "ms for 8 pictures, 99th percentile", 1e6),
    "Server": ("Completed samples per second", "pictures/s", 1),
    "Offline": ("Samples per second", "pictures/s", 1),
}


def table(head: str, lines: Iterable[Iterable[object]]) -> str:
    """A Markdown table; head: titles with `|` between them."""
    titles = [title.strip() for title in head.split("|")]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [titles, ["---"] * len(titles), *lines])


def short(row: Row, key: str = "p50_ms") -> str:
    """Three digits, or a dash for what was not measured or has too few samples."""
    return f"{row[key]:.3g}" if key in row else "–"


def summary(saved: Saved) -> str:
    """The README's: the Pareto picture and one line a model."""
    shares = {row["model"]: row for row in saved.of(scope="array to label, every model")}
    lines = []
    for row in saved.of(scope="array to label, in turn"):
        ratios, share = row["ratios"], shares.get(row["model"], {}).get("share_of_peak")
        lines.append([f"`{row['model']}`", f"{row['accuracy']:.2%}", short(row["times"]["zoo.Model.run"]),
                      f"{ratios['session.run']:.2f}", f"{1 / max(ratios['torch'], ratios['torch-channels-last']):.1f}",
                      f"{1 / ratios['torch-compile']:.1f}", "–" if share is None else f"{share:.0%}"])  # fmt: skip
    head = (
        "model | accuracy | array to label, ms | over a bare `session.run` | faster than PyTorch eager | "
        "than torch.compile | share of what a GEMM reaches"
    )
    picture = "![accuracy against latency and parameters](docs/benchmarks/pareto.png)"
    said = f"One picture at a time, one thread, {saved.environment['processor']}, p50; {saved.date}."
    return f"{picture}\n\n{said}\n\n{table(head, lines)}"


def environment(saved: Saved) -> str:
    told = {**saved.environment, "measured": f"{saved.date}, commit {saved.commit}"}
    return table("| ", ([name, "not installed" if value is None else value] for name, value in told.items()))


def promises(saved: Saved) -> str:
    """Our time, and its ratios turned round where they say how much faster we are."""
    lines = []
    for row in saved.of(scope="array to label, in turn"):
        ours = row["times"]["zoo.Model.run"]
        faster = [f"{1 / row['ratios'][name]:.2f}" for name in row["times"] if name.startswith("torch")]
        lines.append([f"`{row['model']}`", ours["n"], *(short(ours, f"p{p}_ms") for p in (50, 90, 99)),
                      f"{row['ratios']['session.run']:.3f}", *faster])  # fmt: skip
    return table(
        "model | n | `Model.run` to label p50, ms | p90 | p99 | over a bare `session.run` | "
        "faster than PyTorch eager | than channels_last | than that with batch norm folded | than torch.compile",
        lines,
    )


def latency(saved: Saved) -> str:
    """A table a model and batch."""
    parts = []
    for model in saved.models(test="test_runtime"):
        for batch in sorted({row["batch"] for row in saved.of(test="test_runtime", model=model)}):
            parts.append(f"`{model}`, batch {batch}:\n\n{_latency(saved, model, batch)}")
    return "\n\n".join(parts)


def _latency(saved: Saved, model: str, batch: int) -> str:
    lines = []
    for runtime in RUNTIMES:
        scopes = {row["scope"]: row for row in saved.of(test="test_runtime", model=model, runtime=runtime, batch=batch)}
        if (alone := scopes.get("session only")) is None:
            continue
        to_labels = (scopes.get(scope, {}) for scope in ("array to label", "image bytes to label"))
        lines.append([f"`{runtime}`", alone["threads"], alone["n"], *(short(alone, f"p{p}_ms") for p in (50, 90, 99)),
                      *map(short, to_labels), f"{batch / alone['p50_ms'] * 1e3:,.0f}", f"{alone['gflops']:.1f}",
                      f"{alone['share_of_peak']:.0%}", f"{alone['peak_mb']:.0f}"])  # fmt: skip
    return table(
        "runtime | threads | n | session p50, ms | p90 | p99 | array to label p50 | file to label p50 | pictures/s | "
        "GFLOP/s | of its GEMM | peak MB",
        lines,
    )


def runtimes(saved: Saved) -> str:
    """What the names of runtimes mean, what really ran, and how far its logits were from onnxruntime's at most."""
    lines, ran = [], saved.of(test="test_runtime", scope="session only")
    for name, runtime in RUNTIMES.items():
        if rows := [row for row in ran if row["runtime"] == name]:
            off = max(row["logits_off"] for row in rows)
            lines.append([f"`{name}`", runtime.said, rows[0]["provider"], f"{off:.1g}"])
    missing = [name for name in GPU if not [row for row in ran if row["runtime"] == name]]
    said = f"\n\nNot run: {' and '.join(f'`{name}`' for name in missing)}; there was no GPU." if missing else ""
    return table("runtime | what it is | what really ran | logits differ by up to", lines) + said


def peers(saved: Saved) -> str:
    """Runtimes on the processor in turn, and a sentence for each that is more than 20 % faster than ours."""
    rows = saved.of(scope="session only, in turn")
    names = list(dict.fromkeys(name for row in rows for name in row["times"]))
    lines, said = [], []
    for row in rows:
        times = {name: row["times"].get(name, {}) for name in names}
        lines.append([f"`{row['model']}`", row["batch"], *(short(times[name]) for name in names)])
        for name, timing in times.items():
            if timing and (gain := times["onnxruntime"]["p50_ms"] / timing["p50_ms"]) > BEATS:
                where = f"`{row['model']}` at batch {row['batch']}"
                said.append(f"- `{name}` is {gain:.2f} times as fast for {where}, on {row['threads'][name]} thread(s).")
    heads = " | ".join(f"`{name}` p50, ms" for name in names)
    verdict = "\n".join(said) or "No other runtime is more than 20 % faster than onnxruntime on one thread."
    return f"{table(f'model | batch | {heads}', lines)}\n\n{verdict}"


def shares(saved: Saved) -> str:
    lines, below = [], []
    for row in saved.of(scope="array to label, every model"):
        share = row["share_of_peak"]
        below += [f"`{row['model']}`"] if share < HALF else []
        work = f"{row['parameters']:,}", f"{row['macs']:,}"
        rates = f"{row['gflops']:.1f}", f"{row['peak_gflops']:.1f}", f"{share:.0%}"
        lines.append([f"`{row['model']}`", *work, short(row), short(row, "p99_ms"), *rates])
    head = "model | parameters | MACs | array to label p50, ms | p99 | GFLOP/s | GEMM, GFLOP/s | share"
    verdict = f"Below half: {', '.join(below)}." if below else "No model is below half."
    return f"{table(head, lines)}\n\n{verdict}"


def loadgen(saved: Saved) -> str:
    lines = []
    for found in saved.loadgen:
        told = summary_of(found["log"])
        name, unit, scale = SCENARIO_FIGURES[found["scenario"]]
        if bound := float(told["target_latency (ns)"]) / 1e6:
            unit += f", 99 % within {bound:g} ms"
        asked = f"{found['min_duration_s']:g} s, {found['min_queries']:,} queries"
        lines.append([f"`{found['model']}`", found["scenario"], told["Result is"], _figure(float(told[name]) / scale),
                      unit, found["threads"], asked, f"{found['accuracy']:.2%} of {found['asked']:,}"])  # fmt: skip
    return table("model | scenario | LoadGen says | figure | unit | threads | at least | accuracy mode", lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def training(saved: Saved) -> str:
    lines = [[f"`{row['model']}`", row["batch"], row["n"], short(row), f"{row['images_per_s']:,.0f}", row["provider"]]
             for row in saved.of(scope="training step")]  # fmt: skip
    lines += [[f"`{row['model']}`, {row['epochs']} epochs: {row['accuracy']:.2%} in {row['training_s']:.0f} s",
               *["–"] * 5] for row in saved.of(scope="training to an accuracy")]  # fmt: skip
    return table("recipe | batch | steps | ms a step, p50 | pictures/s | on one thread", lines)


def serving(saved: Saved) -> str:
    lines, closed = [], "as many as 32 connections make"
    for row in saved.of(test="test_requests_a_second_and_latency_at_half_of_the_peak"):
        half = row["open_loop"]
        lines += [
            [
                "`zoo serve`",
                closed,
                _middle(row["ours_per_second"]),
                short(row, "ours_p50_ms"),
                short(row, "ours_p99_ms"),
            ],
            ["FastAPI, Pillow and `session.run` under uvicorn", closed, _middle(row["plain_per_second"]), "–", "–"],
            [
                "`zoo serve`",
                "half of that, at random",
                f"{row['open_loop_rate']:,}",
                short(half),
                short(half, "p99_ms"),
            ],
        ]
    for row in saved.of(test="test_litserve_with_one_worker"):
        lines.append(["LitServe, one worker", closed, _middle(row["litserve_per_second"]), "–", "–"])
    return table("server | requests | requests/s | p50, ms | p99, ms", lines)


def _middle(values: list[int]) -> str:
    return f"{sorted(values)[len(values) // 2]:,}"


def ratios(saved: Saved) -> str:
    """What was timed beside something else and has no table of its own."""
    shown = {"test_runtime", "test_model", "test_one_picture_beside_a_bare_session_and_pytorch"}
    lines = [[row["scope"], f"`{row.get('model', row.get('files'))}`", name, f"{value:.2f}"] for row in saved.rows
             if row["test"] not in shown for name, value in row.get("ratios", {}).items()]  # fmt: skip
    return table("what | of | ratio, less is better | measured", lines)
