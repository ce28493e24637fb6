"""Model cards as text and JSON: the table of `zoo list` and the page of `zoo info`."""

import json
import shutil
import sys
from dataclasses import asdict

import click

from zoo.card import Card, Input
from zoo.errors import printable
from zoo.source import Source

UNKNOWN = "unknown"
MAX_LABELS = 20  # that a card's page prints in full


def cards_json(cards: list[Card]) -> str:
    """The complete cards as a JSON array."""
    return json.dumps([asdict(card) for card in cards], indent=2, ensure_ascii=False)


def model_table(cards: list[Card], sources: dict[str, str] | None = None) -> None:
    """Print one line per model; a star marks the default recipe of each architecture.

    Args:
        sources: for models that were pulled, where from.
    """
    headers = ["model", "dataset", "parameters", "MACs", "test accuracy", "file", "title"]
    rows = [
        [
            f"{card.name}{' *' if card.default else ''}",
            card.dataset.title if card.dataset else UNKNOWN,
            f"{card.parameters.count:,}",
            UNKNOWN if card.macs is None else f"{card.macs:,}",
            str(card.accuracy) if card.accuracy else UNKNOWN,
            f"{card.file('model.onnx').size_bytes / 1000:.0f} KB",
            card.title + (f"; pulled from {sources[card.name]}" if sources and card.name in sources else ""),
        ]
        for card in cards
    ]
    print_table(headers, rows, right=frozenset({2, 3, 5}))
    click.echo("* default of its architecture: `mnist14k` is short for `mnist14k.plus`", err=True)


def card_page(card: Card, source: Source | None = None) -> None:
    """Print the fields of a card, where the model was pulled from, and its table of layers."""
    calibration, parameters = card.calibration, card.parameters
    counts = [(parameters.keras, "as counted by Keras"), (parameters.trainable, "trainable")]
    known_counts = "".join(f"{count:,} {kind}, " for count, kind in counts if count is not None)
    errors = (
        f"expected calibration error {calibration.ece_before:.2%} → {calibration.ece_after:.2%}, "
        if calibration.ece_before is not None and calibration.ece_after is not None
        else ""
    )
    file = card.file("model.onnx")
    facts = [
        ("model", f"{card.name} {card.version}: {card.title}"),
        ("labels", " ".join(card.labels) if len(card.labels) <= MAX_LABELS else
                   f"{len(card.labels):,}: {', '.join(card.labels[:MAX_LABELS])}, …"),
        ("input", input_text(card.input)),
        *_accuracy_facts(card),
        ("calibration", f"T = {calibration.temperature:g}, {errors}unsure below {calibration.unsure_below:.1%}"),
        ("", calibration.source),
        *_known_facts(card),
        ("parameters", f"{known_counts}{parameters.deployed:,} in the file"),
        ("MACs", UNKNOWN if card.macs is None else f"{card.macs:,} per image"),
        *_training_facts(card),
        ("file", f"model.onnx, {file.size_bytes:,} bytes, opset {card.opset}, licence {card.licence}"),
        *([("int8", f"{card.quantization}; {card.quantization.scheme}")]
          if card.quantization else []),
        *([("pulled from", f"{source.endpoint}/{source.repository} at {source.commit}")] if source else []),
        ("written with", ", ".join(f"{name} {version}" for name, version in card.versions.items())),
    ]  # fmt: skip
    for name, text in facts:
        click.echo(click.style(f"{name:<14}", bold=True) + printable(text))
    if not card.layers:
        return
    click.echo()
    layers = [
        [layer.name, layer.kind, "x".join(map(str, layer.output)), str(layer.receptive_field),
         f"{layer.parameters:,}", f"{layer.macs:,}"]
        for layer in card.layers
    ]  # fmt: skip
    layers.append(["total", "", "", "", f"{parameters.deployed:,}", f"{card.macs or 0:,}"])
    headers = ["layer", "kind", "output", "receptive field", "parameters", "MACs"]
    print_table(headers, layers, right=frozenset({3, 4, 5}))


def input_text(expected: Input) -> str:
    """The network's input, and how photographs are brought into it."""
    text = f"uint8 (N, {', '.join(map(str, expected.shape))}), {expected.form}"
    if (resize := expected.resize) is None:
        return text
    size = f"shorter side to {resize.size}, centre cropped" if resize.fit == "shortest" else "stretched to the input"
    return f"{text}, {size}, {resize.interpolation}{'' if resize.antialias else ' without antialiasing'}"


def _known_facts(card: Card) -> list[tuple[str, str]]:
    """The output `known`, and how well it tells images of none of the classes."""
    bound, known = card.calibration.known_from, card.known
    if bound is None or known is None:
        return []
    share = "" if known.test_known is None else f", as {known.test_known:.1%} of the test images"
    facts = [("known", f"from {bound:.5f}{share}; its head has {known.parameters:,} parameters")]
    facts += [
        ("", f"{one.name}: AUROC {one.auroc:.4f}, {one.known:.1%} of {one.images:,} images known") for one in known.sets
    ]
    return [*facts, ("", known.source)]


def _accuracy_facts(card: Card) -> list[tuple[str, str]]:
    accuracy = card.accuracy
    if accuracy is None:
        return [("accuracy", f"{UNKNOWN}: it was not measured here")]
    seeds, title = accuracy.seeds, f"{card.dataset.title} " if card.dataset else ""
    spread = f", sd {seeds.sd:.3%}" if seeds.sd is not None else ""
    return [
        ("accuracy", f"{accuracy} on {accuracy.images:,} {title}test images (95 % interval)"),
        ("seeds", f"mean {seeds.mean:.3%}{spread}, n = {seeds.n}: {', '.join(f'{x:.2%}' for x in seeds.accuracies)}"),
    ]


def _training_facts(card: Card) -> list[tuple[str, str]]:
    """Where the weights come from: training and data set, or the file that another program has written."""
    facts = []
    if training := card.training:
        threads = training.environment.get("threads", "?")
        machine = training.environment.get("machine", "an unnamed machine")
        facts += [
            (
                "training",
                f"{training.epochs} epochs, seed {training.seed}, {training.seconds:.0f} s on {threads} thread(s) of "
                f"{machine}",
            ),
            ("source", training.source),
        ]
    if dataset := card.dataset:
        facts.append(("dataset", f"{dataset.title}, {dataset.source}, licence: {dataset.licence}"))
    if origin := card.origin:
        facts += [
            ("training", f"{UNKNOWN}: added from {origin.file} (sha256 {origin.sha256[:12]}…) by {origin.producer}"),
            ("preprocessing", origin.preprocessing),
            ("parity", origin.parity),
        ]
    return facts


def print_table(headers: list[str], rows: list[list[str]], right: frozenset[int] = frozenset()) -> None:
    """Print an aligned table on stdout; on a narrow terminal the last column is truncated.

    Args:
        headers: One per column.
        rows: Cells as text.
        right: Indices of the right-aligned columns, those with numbers.
    """
    rows = [[printable(cell) for cell in line] for line in rows]
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    alignments = [">" if index in right else "<" for index in range(len(headers))]
    available = shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * len(widths[:-1])
    fits_partly = sys.stdout.isatty() and len(headers) - 1 not in right and 8 <= available < widths[-1]
    for number, line in enumerate([headers, *rows]):
        last = f"{line[-1][: available - 1]}…" if fits_partly and len(line[-1]) > available else line[-1]
        cells = (
            f"{cell:{alignment}{width}}"
            for cell, alignment, width in zip([*line[:-1], last], alignments, widths, strict=True)
        )
        text = "  ".join(cells).rstrip()
        click.echo(text if number else click.style(text, bold=True))
