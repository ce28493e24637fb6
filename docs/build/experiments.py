"""A study's results → its page of the documentation, in words and tables, and its pictures."""

from pathlib import Path

from train.experiments import verdicts
from train.experiments.quantities import SHOWN
from train.experiments.study import Check, Claim, Study
from train.experiments.verdicts import Estimate, Finding, Results

EXPECTED = {
    "same": "expected: the same, within ± {margin}{unit}",
    "more": "expected: more",
    "less": "expected: less",
    "no less": "expected: no less, within {margin}{unit}",
    "at least": "expected: at least {against}{unit}",
    "none": "expected: none, for every seed",
}


def text(study: Study, results: Results) -> str:
    """The study's part of docs/experiments.md."""
    told = [(claim, [verdicts.judge(check, results) for check in claim.checks]) for claim in study.claims]
    done = sum(len(seeds) for seeds in results.values())
    lines = [
        f"## {study.title}",
        "",
        study.text,
        "",
        f"`python -m train experiments {study.name} --seeds {study.seeds}` repeats it; {done} of "
        f"{study.seeds * len(study.variants)} runs are done. Every run's settings, epochs and result lie "
        f"in `docs/experiments/{study.name}/`.",
        "",
        "A verdict follows from the 95 % interval of the mean over seeds (Student's t), for a comparison that of the "
        "differences seed by seed. With one seed there is no interval, and nothing can be told.",
        "",
        "| claim | verdict |",
        "|---|---|",
        *(f"| {claim.title} | {_verdict(findings)} |" for claim, findings in told),
        "",
        f"![Validation accuracy by epoch](experiments/{study.name}-curves.png)",
        "",
        f"![Differences from the claims' other variant](experiments/{study.name}-differences.png)",
        "",
        *(line for number, pair in enumerate(told, 1) for line in _section(number, *pair)),
        "### The variants",
        "",
        "| variant | parameters, as Keras counts | batch | test accuracy, mean ± sd (n) | training, mean |",
        "|---|---|---|---|---|",
        *(_row(study, variant, results) for variant in study.variants),
        "",
    ]
    return "\n".join(lines)


def _section(number: int, claim: Claim, findings: list[Finding]) -> list[str]:
    return [
        f"### {number}. {claim.title}: {_verdict(findings)}",
        "",
        f"The notes: {claim.said}",
        "",
        *(f"- {_finding(finding)}" for finding in findings),
        "",
    ]


def _verdict(findings: list[Finding]) -> str:
    verdict = verdicts.all_together([finding.verdict for finding in findings])
    seeds = min((found.variant.n if found.variant else 0) for found in findings)
    if verdict != "cannot be told":
        return verdict
    return f"cannot be told with {seeds} seed{'s' * (seeds != 1)}" if seeds else "not yet measured"


def _finding(finding: Finding) -> str:
    check = finding.check
    words, unit, digits = SHOWN[check.quantity]
    compared = isinstance(check.against, str)
    if finding.variant is None or (compared and finding.other is None):
        names = f"`{check.variant}` against `{check.against}`" if compared else f"`{check.variant}`"
        return f"{words}: {names} ({_expected(check, unit)}): not yet measured."
    said = f"{words}: `{check.variant}` {_said(finding.variant, digits)}{unit}"
    if finding.other:
        said += f", `{check.against}` {_said(finding.other, digits)}{unit}"
    if found := finding.difference:
        interval = "" if found.sd is None else f" ± {found.half_width:.{digits}f}"
        said += f"; difference {found.mean:+.{digits}f}{interval} points, n = {found.n}"
    return f"{said} ({_expected(check, unit)}): {finding.verdict}."


def _expected(check: Check, unit: str) -> str:
    return EXPECTED[check.expected].format(margin=check.margin, against=check.against, unit=unit)


def _said(estimate: Estimate, digits: int) -> str:
    return f"{estimate.mean:.{digits}f}" + ("" if estimate.sd is None else f" (sd {estimate.sd:.{digits}f})")


def _row(study: Study, variant: str, results: Results) -> str:
    from train import networks

    recipe, runs = study.variants[variant], results.get(variant, {})
    parameters = networks.parameter_counts(networks.build(recipe))["keras"]
    found = verdicts.values("test_accuracy", variant, results)
    accuracy = Estimate.of(list(found.values())) if found else None
    spread = f"{_said(accuracy, 2)} % ({accuracy.n})" if accuracy else "not yet measured"
    minutes = f"{sum(run['training_s'] for run in runs.values()) / len(runs) / 60:.0f} min" if runs else ""
    return f"| `{variant}` | {parameters:,} | {recipe.batch_size} | {spread} | {minutes} |"


def draw(study: Study, results: Results, folder: Path) -> list[Path]:
    """Write the study's pictures; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = 4
    rows = -(-len(study.variants) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(13, 2.9 * rows), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for place, variant in zip(axes.flat, study.variants, strict=False):
        for seed, result in sorted(results[variant].items()):
            accuracies = [100 * epoch["validation_accuracy"] for epoch in result["epochs"]]
            place.plot(range(1, len(accuracies) + 1), accuracies, linewidth=1.2, label=f"seed {seed}")
        place.set_title(variant, fontsize=10)
        place.grid(alpha=0.3)
    axes[0, 0].set(ylim=(97, 99.6))
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("validation accuracy, %", fontsize=10)
    if handles := axes[0, 0].get_legend_handles_labels()[0]:
        axes[0, 0].legend(handles=handles, loc="lower right", fontsize=8)
    curves = folder / f"{study.name}-curves.png"
    figure.savefig(curves, dpi=90)
    plt.close(figure)

    checks = [check for claim in study.claims for check in claim.checks if isinstance(check.against, str)]
    figure, place = plt.subplots(figsize=(11, 0.55 * len(checks) + 1.2), layout="constrained")
    place.axvline(0, color="#888888", linewidth=1)
    for line, check in enumerate(checks):
        if (found := verdicts.judge(check, results).difference) is None:
            continue
        half = 0.0 if found.sd is None else found.half_width
        place.errorbar(found.mean, line, xerr=half, fmt="o", color="#1f6feb", capsize=4)
    names = [f"{SHOWN[check.quantity][0].split(',')[0]}:\n{check.variant} − {check.against}" for check in checks]
    place.set_yticks(range(len(checks)), names, fontsize=8)
    place.set_ylim(len(checks) - 0.5, -0.5)
    place.set_xlabel("difference in percentage points, mean and 95 % interval over seeds")
    place.set_xscale("symlog", linthresh=0.5)  # linear in the middle: one large difference shall not hide the others
    place.set_xticks(ticks := [-4, -2, -1, -0.5, -0.25, 0, 0.25, 0.5, 1, 2, 4], [f"{tick:g}" for tick in ticks])
    place.grid(axis="x", alpha=0.3)
    differences = folder / f"{study.name}-differences.png"
    figure.savefig(differences, dpi=90)
    plt.close(figure)
    return [curves, differences]
