"""`zoo push` and `zoo pull`: models on the Hugging Face hub."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from serve.cli.options import complete_models, json_option

if TYPE_CHECKING:
    from zoo.hub import Pulled


@click.command()
@click.argument("name", shell_complete=complete_models)
@click.argument("repository", metavar="REPO")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option(
    "--commit-message", "--message", "message", metavar="TEXT", help="Commit message.  [default: Upload NAME VERSION]"
)
@click.option("--revision", metavar="BRANCH", help="Branch to commit to, made if missing.  [default: main]")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing.")
@json_option
def push(name: str, as_json: bool, **options: Any) -> None:
    """Upload a model to the Hugging Face hub.

    NAME is a model name or the path of a model folder, REPO is OWNER/NAME and is made if it does not exist. Uploads
    model.onnx, model.safetensors if it is there, card.json, and README.md as a model card. Log in first with
    `hf auth login`, or set HF_TOKEN.
    """
    from zoo.hub import push as push_model

    pushed = push_model(name, **options)
    if as_json:
        print_json(asdict(pushed) | {"card": pushed.card.name})
        return
    click.echo(f"Pushed {pushed.card.name} {pushed.card.version} to {pushed.repository}: {pushed.url}")
    click.echo(f"zoo pull {pushed.repository}@{pushed.commit}")


@click.command()
@click.argument("reference", metavar="REPO[@REVISION]")
@click.option("--force", is_flag=True, help="Replace another model of the same name, or one that was changed.")
@json_option
def pull(reference: str, force: bool, as_json: bool) -> None:
    """Download a model from the Hugging Face hub, or update it.

    REPO is OWNER/NAME, REVISION a branch, tag or commit. The model's card decides its name. Commit and sha256 of each
    file are written to source.json in the model's folder; `zoo verify` checks them. Nothing but model.onnx,
    model.safetensors and card.json is downloaded, and no code or pickle is loaded.
    """
    from zoo.hub import pull as pull_model

    pulled = pull_model(reference, force)
    if as_json:
        source = asdict(pulled.source)
        print_json({"model": pulled.card.name, "changed": pulled.changed, "source": source})
        return
    for line in _report(pulled):
        click.echo(line)


def _report(pulled: "Pulled") -> list[str]:
    """What was done, and how the model differs from the previous one."""
    card, source, previous, previous_card = pulled.card, pulled.source, pulled.previous, pulled.previous_card
    if previous is None:
        sizes = ", ".join(f"{file.name} ({file.size_bytes:,} bytes)" for file in source.files)
        return [f"Pulled {card.name} {card.version} from {source}: {sizes}"]
    if previous == source and not pulled.changed:
        return [f"{card.name} {card.version} is up to date: {source}"]
    lines = [f"Updated {card.name} from {previous} to {source}"]
    old, new = previous.digests, source.digests
    for name in pulled.changed:
        lines.append(f"  {name}: sha256 {old.get(name, 'none')[:12]} → {new.get(name, 'none')[:12]}")
    if not pulled.changed:
        lines.append("  no file of the model differs")
    if previous_card is not None:
        for field in ("version", "title", "licence", "accuracy"):
            before, after = str(getattr(previous_card, field)), str(getattr(card, field))
            if before != after:
                lines.append(f"  {field}: {before} → {after}")
    return lines


def print_json(value: Any) -> None:
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
