"""docs/accuracy.md: what each step of the way from the notes' training to ours adds, and what the models reach."""

from collections.abc import Mapping

from train.experiments import verdicts
from train.experiments.study import Rung, Study
from train.experiments.verdicts import Estimate, Results
from zoo.card import Card

DIGITS = {"validation_accuracy": 2, "validation_loss": 1, "corrupted_accuracy": 1}  # the columns
OTHERS = ("notes", "mlperf")  # the trainings that ours are held against, of the same network


def page(cards: list[Card], studies: list[tuple[Study, Results]], corrupted: Mapping[str, float] | None = None) -> str:
    """The whole page from the zoo's cards, the ladders' results and, by model, the accuracy on corrupted test sets."""
    lines = [
        "# Accuracy",
        "",
        "Written by `python -m docs.build` from the cards and from the results in [`experiments/`](experiments).",
        "",
        "The validation split chooses, and the test set is read once a run, after its last epoch. One thing was "
        "learned from test images: corrupted ones showed that fog, then impulse noise, harmed earlier versions of "
        "mnist14k.plus. The remedies, light and noise in training, were chosen on the validation split, but that there "
        "was something to mend was seen there.",
        "",
        "## The others' training and ours",
        "",
        "A gain is that of the mean over the same network's trained as the course notes or MLPerf have it. Corrupted: "
        "the shipped seed on test images gone wrong, the mean over all ways and severities of "
        "[robustness.md](robustness.md).",
        "",
        *_models(cards, corrupted or {}),
        "",
        *(line for study, results in studies for line in _ladder(study, results)),
    ]
    return "\n".join(lines)


def _models(cards: list[Card], corrupted: Mapping[str, float]) -> list[str]:
    trained = [card for card in cards if not card.quantization]
    means = {card.name: 100 * card.accuracy.seeds.mean for card in trained}
    lines = [
        "| model | parameters, as Keras counts | MACs | epochs | test accuracy, mean ± sd (n) | gain | corrupted |",
        "|---|---|---|---|---|---|---|",
    ]
    for card in trained:
        seeds, mean = card.accuracy.seeds, means[card.name]
        spread = "" if seeds.sd is None else f" ± {100 * seeds.sd:.2f}"
        others = [f"{card.architecture}.{tag}" for tag in OTHERS] if card.name.endswith(".plus") else []
        gain = next((f"{mean - means[other]:+.2f} points" for other in others if other in means), "")
        lines.append(
            f"| [`{card.name}`](models/{card.name}.md) | {card.parameters.keras:,} | {card.macs:,} "
            f"| {card.training.epochs} | {mean:.2f}{spread} % ({seeds.n}) | {gain} "
            f"| {f'{100 * corrupted[card.name]:.2f} %' if card.name in corrupted else ''} |"
        )
    return lines


def _ladder(study: Study, results: Results) -> list[str]:
    done = sum(len(seeds) for seeds in results.values())
    first = study.rungs[0].on
    return [
        f"## {study.title}",
        "",
        study.text,
        "",
        f"`python -m train experiments {study.name} --seeds {study.seeds}` repeats it; {done} of "
        f"{study.seeds * len(study.variants)} runs are done. A gain is the mean of the differences seed by seed, over "
        "the seeds that both have, how many in brackets, with its 95 % interval (Student's t) where there are several. "
        "A gain of one seed cannot be told from noise: what is kept is then a decision, not a finding. Corrupted are "
        "the validation images, in "
        "the ways of [robustness.md](robustness.md), all at the middle severity. The minutes were taken beside other "
        "work, pauses included: they compare nothing.",
        "",
        "| step | on | validation accuracy, mean ± sd (n) | gain, points | validation loss, mnat | change, mnat "
        "| corrupted, accuracy | gain, points | training, mean | kept |",
        "|---|---|---|---|---|---|---|---|---|---|",
        _row(Rung(first, "", study.start), results),
        *(_row(rung, results) for rung in study.rungs),
        "",
    ]


def _row(rung: Rung, results: Results) -> str:
    cells = " | ".join(cell for quantity in DIGITS for cell in _told(quantity, rung, results))
    runs = results.get(rung.variant, {}).values()
    minutes = f"{sum(run['training_s'] for run in runs) / len(runs) / 60:.1f} min" if runs else ""
    step = f"`{rung.variant}`: {rung.text}"
    kept = {True: "yes", False: "no", None: "open" if rung.on else ""}[rung.kept]
    on = f"`{rung.on}`" if rung.on else ""
    return f"| {step} | {on} | {cells} | {minutes} | {kept} |"


def _told(quantity: str, rung: Rung, results: Results) -> tuple[str, str]:
    """The variant's estimate and its gain over the one that it stands on, in words."""
    digits = DIGITS[quantity]
    own, other = (verdicts.values(quantity, variant, results) for variant in (rung.variant, rung.on))
    if not own:
        return "not yet measured", ""
    found = Estimate.of(list(own.values()))
    spread = "" if found.sd is None else f" ± {found.sd:.{digits}f}"
    paired = [own[seed] - other[seed] for seed in own if seed in other]
    if not paired:
        return f"{found.mean:.{digits}f}{spread} ({found.n})", ""
    gain = Estimate.of(paired)
    interval = "" if gain.sd is None else f" ± {gain.half_width:.{digits}f}"
    return f"{found.mean:.{digits}f}{spread} ({found.n})", f"{gain.mean:+.{digits}f}{interval} ({gain.n})"
