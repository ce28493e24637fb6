"""The sections of docs/experiments.md: a study's claims, verdicts, tables and plots."""

from pathlib import Path

from train import networks
from train.experiments import analysis
from train.experiments.analysis import QUANTITIES, Estimate, Finding, Results
from train.experiments.study import Check, Claim, Study

EXPECTED = {
    "same": "expected: the same, within ± {margin}{unit}",
    "more": "expected: more",
    "less": "expected: less",
    "no less": "expected: no less, within {margin}{unit}",
    "at least": "expected: at least {against}{unit}",
    "none": "expected: none, for every seed",
}


def text(study: Study, results: Results) -> str:
    """Return the study's section of docs/experiments.md."""
    judged = [(claim, [analysis.judge(check, results) for check in claim.checks]) for claim in study.claims]
    done = sum(len(seeds) for seeds in results.values())
    lines = [
        f"## {study.title}",
        "",
        study.text,
        "",
        f"Repeat it with `python -m train experiments {study.name} --seeds {study.seeds}`; {done} of "
        f"{study.seeds * len(study.variants)} runs are done. The settings, epochs and result of every run are in "
        f"`docs/experiments/{study.name}/`.",
        "",
        "| claim | verdict |",
        "|---|---|",
        *(f"| {claim.title} | {_verdict(findings)} |" for claim, findings in judged),
        "",
        f"![Validation accuracy by epoch](experiments/{study.name}-curves.png)",
        "",
        f"![Differences between the two variants of each comparison](experiments/{study.name}-differences.png)",
        "",
        *(line for number, pair in enumerate(judged, 1) for line in _section(number, *pair)),
        "### The variants",
        "",
        "| variant | parameters, counted as in Keras | batch | test accuracy, mean ± sd (n) | training, mean |",
        "|---|---|---|---|---|",
        *(_row(study, variant, results) for variant in study.variants),
    ]
    return "\n".join(lines)


def _section(number: int, claim: Claim, findings: list[Finding]) -> list[str]:
    return [
        f"### {number}. {claim.title}: {_verdict(findings)}",
        "",
        f"The notes: {claim.quote}",
        "",
        *(f"- {_finding(finding)}" for finding in findings),
        "",
    ]


def _verdict(findings: list[Finding]) -> str:
    verdict = analysis.combine([finding.verdict for finding in findings])
    seeds = min((finding.variant.n if finding.variant else 0) for finding in findings)
    if verdict != "undecided":
        return verdict
    return f"undecided with {seeds} seed{'s' * (seeds != 1)}" if seeds else "not yet measured"


def _finding(finding: Finding) -> str:
    check = finding.check
    quantity = QUANTITIES[check.quantity]
    label, unit, digits = quantity.label, quantity.unit, quantity.digits
    compared = isinstance(check.against, str)
    if finding.variant is None or (compared and finding.other is None):
        names = f"`{check.variant}` against `{check.against}`" if compared else f"`{check.variant}`"
        return f"{label}: {names} ({_expected(check, unit)}): not yet measured."
    text = f"{label}: `{check.variant}` {_mean(finding.variant, digits)}{unit}"
    if finding.other:
        text += f", `{check.against}` {_mean(finding.other, digits)}{unit}"
    if difference := finding.difference:
        interval = "" if difference.sd is None else f" ± {difference.half_width:.{digits}f}"
        text += f"; difference {difference.mean:+.{digits}f}{interval} points, n = {difference.n}"
    return f"{text} ({_expected(check, unit)}): {finding.verdict}."


def _expected(check: Check, unit: str) -> str:
    return EXPECTED[check.expected].format(margin=check.margin, against=check.against, unit=unit)


def _mean(estimate: Estimate, digits: int) -> str:
    return f"{estimate.mean:.{digits}f}" + ("" if estimate.sd is None else f" (sd {estimate.sd:.{digits}f})")


def _row(study: Study, variant: str, results: Results) -> str:
    recipe, runs = study.variants[variant], results.get(variant, {})
    parameters = networks.parameter_counts(networks.build(recipe))["keras"]
    accuracies = list(analysis.values("test_accuracy", variant, results).values())
    accuracy = Estimate.of(accuracies) if accuracies else None
    spread = f"{_mean(accuracy, 2)}% ({accuracy.n})" if accuracy else "not yet measured"
    minutes = f"{sum(run['training_s'] for run in runs.values()) / len(runs) / 60:.0f} min" if runs else ""
    return f"| `{variant}` | {parameters:,} | {recipe.batch_size} | {spread} | {minutes} |"


def draw(study: Study, results: Results, folder: Path) -> list[Path]:
    """Draw the study's plots into a folder; return their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = 4
    rows = -(-len(study.variants) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(13, 2.9 * rows), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for plot, variant in zip(axes.flat, study.variants, strict=False):
        for seed, result in sorted(results[variant].items()):
            accuracies = [100 * epoch["validation_accuracy"] for epoch in result["epochs"]]
            plot.plot(range(1, len(accuracies) + 1), accuracies, linewidth=1.2, label=f"seed {seed}")
        plot.set_title(variant, fontsize=10)
        plot.grid(alpha=0.3)
    axes[0, 0].set(ylim=(97, 99.6))
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("validation accuracy, %", fontsize=10)
    if handles := axes[0, 0].get_legend_handles_labels()[0]:
        axes[0, 0].legend(handles=handles, loc="lower right", fontsize=8)
    curves = folder / f"{study.name}-curves.png"
    figure.savefig(curves, dpi=90)
    plt.close(figure)

    checks = [check for claim in study.claims for check in claim.checks if isinstance(check.against, str)]
    figure, plot = plt.subplots(figsize=(11, 0.55 * len(checks) + 1.2), layout="constrained")
    plot.axvline(0, color="#888888", linewidth=1)
    for line, check in enumerate(checks):
        if (difference := analysis.judge(check, results).difference) is None:
            continue
        half = 0.0 if difference.sd is None else difference.half_width
        plot.errorbar(difference.mean, line, xerr=half, fmt="o", color="#1f6feb", capsize=4)
    names = [
        f"{QUANTITIES[check.quantity].label.split(',')[0]}:\n{check.variant} − {check.against}" for check in checks
    ]
    plot.set_yticks(range(len(checks)), names, fontsize=8)
    plot.set_ylim(len(checks) - 0.5, -0.5)
    plot.set_xlabel("difference in percentage points, mean and 95 % interval over seeds")
    plot.set_xscale("symlog", linthresh=0.5)  # linear near 0, so that one large difference does not hide the others
    plot.set_xticks(ticks := [-4, -2, -1, -0.5, -0.25, 0, 0.25, 0.5, 1, 2, 4], [f"{tick:g}" for tick in ticks])
    plot.grid(axis="x", alpha=0.3)
    differences = folder / f"{study.name}-differences.png"
    figure.savefig(differences, dpi=90)
    plt.close(figure)
    return [curves, differences]
