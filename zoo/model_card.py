"""A card as a Markdown page with YAML front matter: the model card format of the Hugging Face hub.

https://huggingface.co/docs/hub/model-cards. `zoo push` writes it as README.md, `docs/build` as docs/models/NAME.md.
"""

import json
from typing import Any

from zoo.card import OWN_IMAGES, Accuracy, Card, DatasetFacts, Training

HUB_DATASETS = "huggingface.co/datasets/"
NOT_STATED = "not stated"  # the licence of a model of one's own

# Licences that the hub knows by these identifiers (https://huggingface.co/docs/hub/repositories-licenses), of those
# that are usual for weights. Others are written as "other" with their name.
HUB_LICENCES = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsl-1.0", "cc", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "ecl-2.0", "epl-2.0", "eupl-1.1", "gpl-2.0", "gpl-3.0",
    "isc", "lgpl-2.1", "lgpl-3.0", "mit", "mpl-2.0", "ms-pl", "ncsa", "openrail", "osl-3.0", "pddl", "unknown",
    "unlicense", "wtfpl", "zlib",
})  # fmt: skip


def text(card: Card, usage: str, footer: str) -> str:
    """The page of a model.

    Args:
        usage: Markdown that shows how to use the model.
        footer: the last sentence.
    """
    return f"---\n{_front_matter(card)}---\n\n{_body(card, usage, footer)}"


def _front_matter(card: Card) -> str:
    """Return YAML. Values are written as JSON, which is valid YAML, so that no quoting rules are needed."""
    fields = {
        **_licence(card.licence),
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["onnx", "image-classification", "tiny", *_dataset_tags(card)],
        **_evaluation(card),
    }
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())


def _evaluation(card: Card) -> dict[str, Any]:
    """The fields for the data set and the accuracy, where they are known."""
    if card.dataset is None or card.accuracy is None:
        return {}
    on_hub = card.dataset.source.startswith(HUB_DATASETS)
    dataset_id = card.dataset.source.removeprefix(HUB_DATASETS) if on_hub else card.dataset.name
    if card.dataset.name == OWN_IMAGES:
        dataset_id = "imagefolder"  # the hub's usual name for a folder of images that is not published
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"type": dataset_id, "name": card.dataset.title, "split": "test"},
        "metrics": [{"type": "accuracy", "name": "accuracy, last epoch", "value": round(card.accuracy.value, 4)}],
    }
    return {
        **({"datasets": [dataset_id]} if on_hub else {}),
        "metrics": ["accuracy"],
        "model-index": [{"name": card.name, "results": [result]}],
    }


def _dataset_tags(card: Card) -> list[str]:
    return [card.dataset.name] if card.dataset and card.dataset.name != OWN_IMAGES else []


def _dataset_sentence(dataset: DatasetFacts) -> str:
    if dataset.name != OWN_IMAGES:
        return f"Dataset: {dataset.title} ({dataset.source}), licence: {dataset.licence}."
    counts = ", ".join(f"{count:,} {split}" for split, count in (dataset.images or {}).items()) or "not counted"
    digest = f"; sha256 {dataset.sha256}" if dataset.sha256 else ""
    return f"Dataset: {dataset.title}, images of the model's author: {counts}{digest}."


def _licence(licence: str) -> dict[str, str]:
    if licence.lower() in HUB_LICENCES:
        return {"license": licence.lower()}
    if licence == NOT_STATED:
        return {"license": "unknown"}
    return {"license": "other", "license_name": licence}


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _threads(environment: dict[str, Any]) -> str:
    """The number of threads that trained the model. Other people's cards may lack it."""
    threads = environment.get("threads", "an unknown number of")
    return f"{threads} thread{'s' * (threads != 1)}"


def _accuracy_facts(accuracy: Accuracy) -> list[tuple[str, str]]:
    seeds, (low, high) = accuracy.seeds, accuracy.interval95
    spread = f" ± {seeds.sd:.3%} (sd)" if seeds.sd is not None else ""
    return [
        ("Test accuracy", f"{accuracy.value:.2%} of {accuracy.images:,} images, 95% interval {low:.2%} to {high:.2%}"),
        ("Over seeds", f"{seeds.mean:.3%}{spread}, n = {seeds.n}: {', '.join(f'{x:.2%}' for x in seeds.accuracies)}"),
    ]


def _training_facts(training: Training) -> list[tuple[str, str]]:
    precision = f", {name}" if (name := training.environment.get("precision")) else ""
    date = f", {day}" if (day := training.environment.get("date")) else ""
    return [
        (
            "Trained",
            f"{training.epochs} epochs, seed {training.seed}, {training.seconds:,.0f} s on "
            f"{_threads(training.environment)}{date}{precision}",
        )
    ]


def _body(card: Card, usage: str, footer: str) -> str:
    calibration, parameters = card.calibration, card.parameters
    counts = [(parameters.keras, "counted as in Keras"), (parameters.trainable, "trainable")]
    known_counts = "".join(f"{count:,} {kind}, " for count, kind in counts if count is not None)
    errors = (
        f"expected calibration error on the test set {calibration.ece_before:.2%} before, "
        f"{calibration.ece_after:.2%} after; "
        if calibration.ece_before is not None and calibration.ece_after is not None
        else ""
    )
    facts = [
        ("Version", card.version),
        ("Input", f"`image`, uint8 `(N, {', '.join(map(str, card.input.shape))})`"),
        ("Output", f"`logits` and `probabilities`, float32 `(N, {len(card.labels)})`: {', '.join(card.labels)}"),
        *_known_facts(card),
        *(_accuracy_facts(card.accuracy) if card.accuracy else []),
        ("Parameters", f"{known_counts}{parameters.deployed:,} in the file"),
        *([("MACs", f"{card.macs:,} per image")] if card.macs is not None else []),
        (
            "Calibration",
            f"temperature {calibration.temperature:g}; {errors}unsure below {calibration.unsure_below:.1%}",
        ),
        ("File", f"`model.onnx`, {card.file('model.onnx').size_bytes:,} bytes, opset {card.opset}"),
        *(_training_facts(card.training) if card.training else []),
        *([("int8", f"{card.quantization}; {card.quantization.scheme}")] if card.quantization else []),
    ]
    sources = [
        *([f"Source: {card.training.source}"] if card.training else []),
        *(
            [
                f"Exported by {origin.producer} as {origin.file}.",
                _sentence(origin.preprocessing),
                _sentence(origin.parity),
            ]
            if (origin := card.origin)
            else []
        ),
        _sentence(calibration.source),
        *([_dataset_sentence(card.dataset)] if card.dataset else []),
    ]
    lines = [f"# {card.name}", "", _sentence(card.title), "", usage, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts]
    for source in sources:
        lines += ["", source]
    if card.layers:
        lines += ["", "## Layers", "", "Batch norm is folded into the convolutions.", ""]
        lines += ["| layer | kind | output | receptive field | parameters | MACs |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {layer.name} | {layer.kind} | {'x'.join(map(str, layer.output))} | {layer.receptive_field} "
            f"| {layer.parameters:,} | {layer.macs:,} |"
            for layer in card.layers
        ]
    return "\n".join([*lines, "", footer, ""])


def _known_facts(card: Card) -> list[tuple[str, str]]:
    """The output `known`, its bound and how well it tells images of other sets."""
    bound, known = card.calibration.known_from, card.known
    if bound is None or known is None:
        return []
    facts = [("Output `known`", f"float32 `(N,)`, 0 to 1; an image below {bound:.5f} shows none of the classes")]
    if known.test_known is not None:
        facts.append(("Known", f"{known.test_known:.1%} of the test images"))
    facts += [
        (
            f"Unknown: {one.name}",
            f"{one.images:,} images: AUROC {one.auroc:.4f}, {one.false_positive_rate:.1%} false positives at 95 % true "
            f"positives, {one.known:.1%} known at the bound",
        )
        for one in known.sets
    ]
    return [*facts, ("Known: source", known.source)]
