"""The `zoo` command: parse, one library call, print. Data go to stdout, everything else to stderr.

Exit codes: 0 all done; 1 some inputs failed, or a verification did; 2 wrong usage, or nothing to do; 3 model, runtime
or device not available; 130 interrupted, 143 by SIGTERM.
"""

import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

import zoo
from serve.messages import say
from serve.service.settings import DEFAULT_MODEL
from zoo.errors import BadModel, ModelNotFound, ZooError, printable, reason

if TYPE_CHECKING:
    from pathlib import Path

    from click.shell_completion import CompletionItem

    from zoo.verify import Check

COMPLETE = "_ZOO_COMPLETE"  # set by the shell's completion function: click's protocol


def _complete_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]  # the shell lists them itself


def _complete_models(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """Names and architectures, or files where none begins like that."""
    from click.shell_completion import CompletionItem

    try:
        cards = zoo.list_models()
    except ZooError:  # there is no home folder
        cards = []
    names = {name for card in cards for name in (card.name, card.architecture) if name.startswith(incomplete)}
    return [CompletionItem(name) for name in sorted(names)] or _complete_files(context, parameter, incomplete)


_model_option = click.option(
    "--model",
    "-m",
    shell_complete=_complete_models,
    help=f"Name, or path to an .onnx file or a model's folder.  [default: {DEFAULT_MODEL}]",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
_device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
_data_option = click.option("--data", type=click.Path(exists=True, file_okay=False), help="Test data.  [ZOO_DATA]")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(zoo.__version__, "-V", "--version", prog_name="zoo")
@click.pass_context
def cli(context: click.Context) -> None:
    """Small image classifiers: read a digit from a picture, see which models there are, check what they claim."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False


@cli.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=_complete_files)
@_model_option
@click.option("--out", "-o", metavar="FILE", help="Write there: .jsonl, .csv or .parquet.  [default: stdout]")
@click.option(
    "--format", "form", type=click.Choice(["table", "jsonl", "csv", "parquet"]), help="[default: by FILE, or table]"
)
@click.option("--top-k", type=click.IntRange(min=1), default=3, show_default=True, help="Guesses for each image.")
@click.option("--fit", type=click.Choice(["crop", "whole"]), default="crop", show_default=True, help="Of photographs.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same command into FILE.")
@click.option(
    "--on-error",
    type=click.Choice(["row", "fail"]),
    default="row",
    show_default=True,
    help="An image that fails gets a row with its error, or ends the run.",
)
@click.option("--max-errors", type=click.IntRange(min=0), metavar="N", help="End the run when more images fail.")
@click.option("--allow-url", is_flag=True, help="Fetch images whose name is a URL.")
@click.option("--column", metavar="NAME", help="Of parquet files.  [default: the first that holds images]")
@click.option(
    "--max-megapixels",
    envvar="ZOO_MAX_MEGAPIXELS",
    type=click.FloatRange(min=0.1, max=1000),
    metavar="N",
    help="Refuse larger pictures.  [ZOO_MAX_MEGAPIXELS; default: 25]",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes for many images.  [default: one a core]")
@_device_option
def predict(model: str | None, on_error: str, max_errors: int | None, **options: Any) -> None:
    """Classify images, one row an image, in input order.

    IMAGE is a file, a folder, a glob, a zip or tar archive, a parquet file, a URL; @FILE, a list of image files and
    URLs, one a line, and @- that list on stdin; or - for an image's bytes on stdin.
    """
    from serve.cli.predict import Request, predict

    borne = 0 if on_error == "fail" else max_errors
    sys.exit(predict(Request(model=model or DEFAULT_MODEL, by_default=model is None, max_errors=borne, **options)))


@cli.command()
@click.argument("image", shell_complete=_complete_files)
@_model_option
@click.option("--out", "-o", type=click.Path(file_okay=False), default="inside", show_default=True, help="Folder.")
@click.option(
    "--unit", metavar="LAYER:ROW,COLUMN", help="Whose receptive field to draw.  [default: the middle of each]"
)
def inspect(image: str, model: str | None, out: str, unit: str | None) -> None:
    """Look inside: draw what every layer makes of IMAGE.

    Writes PNG pictures into a folder: the answer, receptive fields, the first kernels, and every layer's feature maps.
    """
    from pathlib import Path

    from zoo.inspection.activations import look_inside, parse_unit
    from zoo.inspection.plots import draw_pictures

    chosen = parse_unit(unit) if unit else None
    for path in draw_pictures(look_inside(DEFAULT_MODEL if model is None else model, image), Path(out), chosen):
        click.echo(path)


@cli.command("list")
@click.argument("pattern", default="*", shell_complete=_complete_models)
@_json_option
def list_command(pattern: str, as_json: bool) -> None:
    """List models whose name matches or begins with PATTERN.

    PATTERN may hold wildcards: zoo list 'mnist*', zoo list '*.plus', zoo list cifar.
    """
    from serve.cli.output import cards_json, model_table
    from zoo.registry import damaged

    for problem in damaged(pattern):
        say(f"zoo: {printable(str(problem))}")
    cards = zoo.list_models(pattern)
    if not cards:
        raise ModelNotFound(f"No model matches {pattern!r}: `zoo list` shows all models.")
    if as_json:
        click.echo(cards_json(cards))
    else:
        model_table(cards)


@cli.command()
@click.argument("name", shell_complete=_complete_models)
@_json_option
def info(name: str, as_json: bool) -> None:
    """Show a model's card, and its layers.

    NAME is a model's name, a path to an .onnx file, or a model's folder. Layers are shown with output size, receptive
    field, parameters and multiply-accumulates.
    """
    from serve.cli.output import card_page
    from zoo.model import card_of

    card = card_of(name)
    if as_json:
        click.echo(card.to_json(indent=2))
    else:
        card_page(card)


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=_complete_models)
@_data_option
@_device_option
@_json_option
def verify(names: tuple[str, ...], data: str | None, device: str, as_json: bool) -> None:
    """Check that models are what their cards say.

    Compares hashes and the embedded card and, where the test data are here, recomputes the accuracy on all of them.
    NAME is a model's name, with wildcards or without, a path to an .onnx file, or a model's folder.
    """
    import json

    passed, found = True, []
    for name in names:
        for model, check in _checks(name, data, device):
            passed = passed and check.passed is not False
            found.append({"model": model, "check": check.name, "passed": check.passed, "detail": check.detail})
            if not as_json:
                mark = {True: "ok", False: "FAILED", None: "skipped"}[check.passed]
                click.echo(printable(f"{model}  {check.name:<18} {mark:<8} {check.detail}"))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    sys.exit(0 if passed else 1)


def _checks(name: str, data: str | None, device: Any) -> "Iterator[tuple[str, Check]]":
    """Models that a name or pattern means, each with its checks. A damaged model is a check that failed."""
    from zoo import registry
    from zoo.model import locate
    from zoo.verify import Check
    from zoo.verify import verify as checks_of

    models: list[registry.Entry] | list[registry.Entry | Path]
    try:
        models = registry.scan(name) if registry.is_pattern(name) else [locate(name)]
        problems = registry.damaged(name) if registry.is_pattern(name) else []
    except BadModel as error:
        models, problems = [], [error]
    if not models and not problems:
        raise ModelNotFound(f"No model matches {name!r}: `zoo list` shows all models.")
    for problem in problems:
        yield name, Check("card", False, str(problem))
    for model in models:
        for check in checks_of(model, data, device):
            yield model.card.name if isinstance(model, registry.Entry) else name, check


class PortOption(click.Option):
    """--port, for which a variable of Kubernetes is not meant: it sets ZOO_PORT for a service that is called zoo."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        if value is not None and value.startswith(("tcp://", "udp://", "sctp://")):
            say(f"zoo: ZOO_PORT is {value!r}, as Kubernetes sets it for a service called zoo: it is no --port.")
            return None
        return value


@cli.command(context_settings={"auto_envvar_prefix": "ZOO"})
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    cls=PortOption,
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes any free one.",
)
@click.option("--models", default="*", show_default=True, metavar="PATTERN", help="Which models to serve.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Server processes.")
@click.option("--max-queue", type=click.IntRange(min=1), default=256, show_default=True, help="Requests that may wait.")
@click.option("--max-body-mb", type=click.FloatRange(min=0.001), default=16, show_default=True, help="Of a request.")
@click.option("--deadline-ms", type=click.IntRange(min=1), default=10_000, show_default=True, help="For an answer.")
@click.option("--demo/--no-demo", default=True, show_default=True, help="The page for people, at /.")
@click.option("--access-log/--no-access-log", default=True, show_default=True, help="A JSON line a request, on stderr.")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    envvar="ZOO_ALLOWED_HOST",
    metavar="NAME",
    help="Name that requests may call this server by, '*' for any; repeatable.  [default: addresses, localhost, HOST]",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    envvar="ZOO_CORS_ORIGIN",
    metavar="ORIGIN",
    help="Site whose pages may use this server, as https://example.org, or '*'; repeatable.  [default: none]",
)
@click.option("--health-port", type=click.IntRange(1, 65535), help="Answer /v2/health/ there too, however busy.")
@_device_option
def serve(**options: Any) -> None:
    """Answer people (a page) and programs (HTTP) until stopped.

    Each option is also read from ZOO_ and its name. ZOO_API_KEY in the environment is the key that clients must show.
    """
    from serve.cli.serve import serve
    from serve.service.settings import Settings

    serve(Settings(**options, key=_api_key()))


def _api_key() -> str | None:
    """The key from the environment, without the line end that files and secrets have. Raises WrongUsage."""
    from zoo.errors import WrongUsage

    value = os.environ.get("ZOO_API_KEY")
    if value is None:
        return None
    key = value.strip()
    if not key or not key.isprintable():
        raise WrongUsage("ZOO_API_KEY is empty or holds control characters: set a key, or remove the variable.")
    if key != value:
        say("zoo: ZOO_API_KEY has spaces or line ends around the key: they are left out.")
    return key


@cli.command()
@_json_option
def doctor(as_json: bool) -> None:
    """Show what is installed, and which devices work.

    Tries every device with a model, and compares every model's file with its card; to paste into a bug report.
    """
    import json

    from serve.cli.doctor import examine

    rows, well = examine()
    if as_json:
        findings = [{"subject": subject, "finding": finding} for subject, finding in rows]
        click.echo(json.dumps({"well": well, "findings": findings}, indent=2))
    else:
        width = max(len(subject) for subject, _ in rows)
        for subject, finding in rows:
            click.echo(printable(f"{subject:<{width}}  {finding}"))
    sys.exit(0 if well else 3)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes in a shell.

    For bash and zsh, add eval "$(zoo completion bash)" or zsh to ~/.bashrc or ~/.zshrc. For fish, save the output as
    ~/.config/fish/completions/zoo.fish.
    """
    sys.exit(_shell_complete(f"{shell}_source"))


def _shell_complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, "zoo", COMPLETE, instruction)


def main() -> None:
    """Run the command and leave with its exit code; every expected failure is one sentence on stderr."""
    sys.stdout = sys.stdout or open(os.devnull)  # closed: no file of ours shall take its place; to write fails
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):  # any name can be printed: into files as UTF-8, on terminals as they can
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    if instruction := os.environ.get(COMPLETE):
        sys.exit(_shell_complete(instruction))
    try:
        with cli.make_context("zoo", sys.argv[1:]) as context:
            cli.invoke(context)
        code = 0
    except click.exceptions.Exit as left:  # of --help and --version
        code = left.exit_code
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        for line in shown.getvalue().rstrip("\n").split("\n"):
            say(line)
        code = error.exit_code
    except ZooError as error:
        say(f"zoo: {printable(str(error))}")
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:  # the reader, `head` for one, has left: no reason to complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except MemoryError:
        say("zoo: There is not enough memory for this: take a smaller model, or fewer or smaller images.")
        code = 1
    except OSError as error:
        if error.filename is None:  # as of a stream
            say(f"zoo: The answer cannot be written ({reason(error)}).")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            say(f"zoo: A file cannot be used ({reason(error)}).")
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
