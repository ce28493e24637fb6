"""docs/accuracy.md: the accuracy of the models, and what each step of the ablations adds."""

from collections.abc import Mapping

from train.experiments import analysis
from train.experiments.analysis import Estimate, Results
from train.experiments.study import Step, Study
from zoo.card import Card

DIGITS = {"validation_accuracy": 2, "validation_loss": 1, "corrupted_accuracy": 1}  # the columns of an ablation
REFERENCES = ("notes", "mlperf")  # recipes of the same network that ours are compared with


def page(cards: list[Card], studies: list[tuple[Study, Results]], corrupted: Mapping[str, float] | None = None) -> str:
    """Return the page for the cards, the ablations' results and the accuracy on corrupted images by model."""
    lines = [
        "# Accuracy",
        "",
        "Written by `python -m docs.build` from the cards and from the results in [`experiments/`](experiments).",
        "",
        "All settings are chosen on the validation split. The test set is read once per run, after the last epoch. "
        "There is one exception: corrupted test images showed that earlier versions of mnist14k.plus were not robust "
        "to fog, and then to impulse noise. The remedies (light and noise in training) were chosen on the validation "
        "split, but the need for them was seen on test images.",
        "",
        "## Models",
        "",
        "The gain compares mean accuracies with those of the same network trained as the course notes or MLPerf "
        "describe. Corrupted: accuracy of the shipped seed on corrupted test images, the mean over all corruptions and "
        "severities of [robustness.md](robustness.md).",
        "",
        *_models(cards, corrupted or {}),
        "",
        *(line for study, results in studies for line in _ablation(study, results)),
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
        references = [f"{card.architecture}.{tag}" for tag in REFERENCES] if card.name.endswith(".plus") else []
        gain = next((f"{mean - means[name]:+.2f} points" for name in references if name in means), "")
        lines.append(
            f"| [`{card.name}`](models/{card.name}.md) | {card.parameters.keras:,} | {card.macs:,} "
            f"| {card.training.epochs} | {mean:.2f}{spread} % ({seeds.n}) | {gain} "
            f"| {f'{100 * corrupted[card.name]:.2f} %' if card.name in corrupted else ''} |"
        )
    return lines


def _ablation(study: Study, results: Results) -> list[str]:
    done = sum(len(seeds) for seeds in results.values())
    return [
        f"## {study.title}",
        "",
        study.text,
        "",
        f"Repeat it with `python -m train experiments {study.name} --seeds {study.seeds}`; {done} of "
        f"{study.seeds * len(study.variants)} runs are done. A gain is the mean of the paired differences over the "
        "seeds that both variants have (their number in brackets), with its 95 % interval (Student's t) where there is "
        "more than one. The gain of a single seed cannot be distinguished from noise; keeping such a step is a "
        "decision, not a result. Corrupted: validation images with the corruptions of [robustness.md](robustness.md) "
        "at the middle severity. The training times include pauses and other work on the machine, so they cannot be "
        "compared.",
        "",
        "| step | base | validation accuracy, mean ± sd (n) | gain, points | validation loss, mnat | change, mnat "
        "| corrupted, accuracy | gain, points | training, mean | kept |",
        "|---|---|---|---|---|---|---|---|---|---|",
        _row(Step(study.steps[0].base, "", study.start), results),
        *(_row(step, results) for step in study.steps),
        "",
        *([study.note, ""] if study.note else []),
    ]


def _row(step: Step, results: Results) -> str:
    cells = " | ".join(cell for quantity in DIGITS for cell in _value_and_gain(quantity, step, results))
    runs = results.get(step.variant, {}).values()
    minutes = f"{sum(run['training_s'] for run in runs) / len(runs) / 60:.1f} min" if runs else ""
    kept = {True: "yes", False: "no", None: "open" if step.base else ""}[step.kept]
    base = f"`{step.base}`" if step.base else ""
    return f"| `{step.variant}`: {step.text} | {base} | {cells} | {minutes} | {kept} |"


def _value_and_gain(quantity: str, step: Step, results: Results) -> tuple[str, str]:
    """Format the quantity of the step's variant, and its difference from the base."""
    digits = DIGITS[quantity]
    own, base = (analysis.values(quantity, variant, results) for variant in (step.variant, step.base))
    if not own:
        return "not yet measured", ""
    estimate = Estimate.of(list(own.values()))
    spread = "" if estimate.sd is None else f" ± {estimate.sd:.{digits}f}"
    value = f"{estimate.mean:.{digits}f}{spread} ({estimate.n})"
    paired = [own[seed] - base[seed] for seed in own if seed in base]
    if not paired:
        return value, ""
    gain = Estimate.of(paired)
    interval = "" if gain.sd is None else f" ± {gain.half_width:.{digits}f}"
    return value, f"{gain.mean:+.{digits}f}{interval} ({gain.n})"
