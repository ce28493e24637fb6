"""card.json → docs/models/NAME.md in the model card format of the Hugging Face hub (YAML front matter)."""

import json

from zoo.card import Card


def text(card: Card) -> str:
    """Return the page of a model."""
    return f"---\n{_front_matter(card)}---\n\n{_body(card)}"


def _front_matter(card: Card) -> str:
    """Return YAML. Values are written as JSON, which is valid YAML, so that no quoting rules are needed."""
    metric = {"type": "accuracy", "name": "accuracy, last epoch", "value": round(card.trained.accuracy.value, 4)}
    data = card.trained.dataset
    dataset = {"type": data.source.removeprefix("huggingface.co/datasets/"), "name": data.title}
    result = {
        "task": {"type": "image-classification"},
        "dataset": dataset | {"split": "test"},
        "metrics": [metric],
    }
    fields = {
        "license": card.licence.lower(),
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["onnx", "image-classification", "tiny", card.trained.dataset.name],
        "datasets": [dataset["type"]],
        "metrics": ["accuracy"],
        "model-index": [{"name": card.name, "results": [result]}],
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _body(card: Card) -> str:
    data, accuracy, training = card.trained.dataset, card.trained.accuracy, card.trained.training
    seeds, calibration = accuracy.seeds, card.calibration
    low, high = accuracy.interval95
    precision = f", {name}" if (name := training.environment.get("precision")) else ""
    spread = f" ± {seeds.sd:.3%} (sd)" if seeds.sd is not None else ""
    facts = [
        ("Version", card.version),
        ("Input", f"`image`, uint8 `(N, {', '.join(map(str, card.input.shape))})`"),
        ("Output", f"`logits` and `probabilities`, float32 `(N, {len(card.labels)})`: {', '.join(card.labels)}"),
        ("Test accuracy", f"{accuracy.value:.2%} of {accuracy.images:,} images, 95% interval {low:.2%} to {high:.2%}"),
        ("Over seeds", f"{seeds.mean:.3%}{spread}, n = {seeds.n}: {', '.join(f'{x:.2%}' for x in seeds.accuracies)}"),
        (
            "Parameters",
            f"{card.parameters.keras:,} counted as in Keras, {card.parameters.trainable:,} trainable, "
            f"{card.parameters.deployed:,} in the file",
        ),
        ("MACs", f"{card.macs:,} per image"),
        (
            "Calibration",
            f"temperature {calibration.temperature:g}; expected calibration error on the test set "
            f"{calibration.ece_before:.2%} before, {calibration.ece_after:.2%} after; "
            f"unsure below {calibration.unsure_below:.1%}",
        ),
        ("File", f"`model.onnx`, {card.file('model.onnx').size_bytes:,} bytes, opset {card.opset}"),
        (
            "Trained",
            f"{training.epochs} epochs, seed {training.seed}, {training.seconds:,.0f} s on "
            f"{_count(training.environment['threads'], 'thread')}, {training.environment['date']}{precision}",
        ),
    ]
    command = f"python -m train {card.name} --seed 0"
    if quantization := card.quantization:
        facts.append(("int8", f"{quantization}; {quantization.scheme}"))
        command = f"python -m train quantize {quantization.of}"
    layers = [
        f"| {layer.name} | {layer.kind} | {'x'.join(map(str, layer.output))} | {layer.receptive_field} "
        f"| {layer.parameters:,} | {layer.macs:,} |"
        for layer in card.layers
    ]
    return "\n".join([
        f"# {card.name}",
        "",
        f"{card.title[0].upper()}{card.title[1:]}.",
        "",
        "```sh",
        f"zoo predict image.png --model {card.name}",
        command,
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts),
        "",
        f"Source: {training.source}",
        "",
        f"{calibration.source[0].upper()}{calibration.source[1:]}.",
        "",
        f"Dataset: {data.title} ({data.source}), licence: {data.licence}.",
        "",
        "## Layers",
        "",
        "Batch norm is folded into the convolutions.",
        "",
        "| layer | kind | output | receptive field | parameters | MACs |",
        "|---|---|---|---|---|---|",
        *layers,
        "",
        "Written from the model's card by `python -m docs.build`.",
        "",
    ])  # fmt: skip
