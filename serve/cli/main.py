"""The `zoo` command: each subcommand parses its options, calls the library once and prints the result.

Results go to stdout, everything else to stderr. Exit codes:

    0    success
    1    an image failed, or a check of `zoo verify` failed
    2    wrong usage, or no images to classify
    3    model, runtime or device not available; `zoo doctor` found a problem
    130  interrupted by Ctrl-C
    143  terminated by SIGTERM
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

COMPLETION_VARIABLE = "_ZOO_COMPLETE"  # set by the shell's completion function, as click's protocol defines


def _complete_files(context: click.Context, parameter: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]  # the shell itself lists the files


def _complete_models(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem[str]]":
    """Model names and architectures that start with the word; files if there are none."""
    from click.shell_completion import CompletionItem

    try:
        cards = zoo.list_models()
    except ZooError:  # for example, there is no home directory
        cards = []
    names = {name for card in cards for name in (card.name, card.architecture) if name.startswith(incomplete)}
    return [CompletionItem(name) for name in sorted(names)] or _complete_files(context, parameter, incomplete)


_model_option = click.option(
    "--model",
    "-m",
    shell_complete=_complete_models,
    metavar="MODEL",
    help=f"Model name, path of an .onnx file, or path of a model folder.  [default: {DEFAULT_MODEL}]",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_device_choice = click.Choice(["auto", "cpu", "cuda"])
_device_option = click.option(
    "--device", type=_device_choice, default="auto", show_default=True, help="Device to run on; auto is the CPU."
)
_data_option = click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False),
    help="Directory with the test datasets.  [env var: ZOO_DATA]",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(zoo.__version__, "-V", "--version", prog_name="zoo")
@click.pass_context
def cli(context: click.Context) -> None:
    """Small image classifiers for digits and photos.

    Classify images, list the models and check them, or serve them over HTTP.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False


@cli.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=_complete_files)
@_model_option
@click.option("--out", "-o", metavar="FILE", help="Output file (.jsonl, .csv or .parquet).  [default: stdout]")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "jsonl", "csv", "parquet"]),
    help="Output format.  [default: from FILE's suffix, or table]",
)
@click.option(
    "--top-k", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Labels to report per image."
)
@click.option(
    "--fit",
    type=click.Choice(["crop", "whole"]),
    default="crop",
    show_default=True,
    help="Fit photos to the input: crop the centre, or pad the whole image.",
)
@click.option("--resume", is_flag=True, help="Resume the interrupted run that was writing FILE.")
@click.option(
    "--on-error",
    type=click.Choice(["row", "fail"]),
    default="row",
    show_default=True,
    help="For an image that fails: write a row with the error, or stop.",
)
@click.option(
    "--max-errors",
    type=click.IntRange(min=0),
    metavar="N",
    help="Stop when more than N images have failed.  [default: no limit]",
)
@click.option("--allow-url", is_flag=True, help="Download images given as http:// or https:// URLs.")
@click.option(
    "--column", metavar="NAME", help="Image column of parquet files.  [default: the first column with images]"
)
@click.option(
    "--max-megapixels",
    envvar="ZOO_MAX_MEGAPIXELS",
    type=click.FloatRange(min=0.1, max=1000),
    metavar="N",
    help="Reject images above this many megapixels.  [env var: ZOO_MAX_MEGAPIXELS; default: 25]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Worker processes for more than 256 images.  [default: one per core]",
)
@click.option(
    "--device",
    type=_device_choice,
    default="auto",
    show_default=True,
    help="Device to run on; auto is the CPU, or CUDA for 200,000 images or more.",
)
def predict(model: str | None, on_error: str, max_errors: int | None, **options: Any) -> None:
    """Classify images; prints one row per image.

    \b
    IMAGE is one of:
      an image file, a folder, a glob pattern or a URL
      a zip or tar archive, or a parquet file with an image column
      @FILE  a text file with one path or URL per line; @- reads it from stdin
      -      the bytes of one image on stdin
    """
    from serve.cli.predict import PredictOptions, predict

    limit = 0 if on_error == "fail" else max_errors
    sys.exit(
        predict(
            PredictOptions(model=model or DEFAULT_MODEL, is_default_model=model is None, max_errors=limit, **options)
        )
    )


@cli.command()
@click.argument("image", shell_complete=_complete_files)
@_model_option
@click.option(
    "--out", "-o", type=click.Path(file_okay=False), default="inside", show_default=True, help="Output folder."
)
@click.option(
    "--unit",
    metavar="LAYER:ROW,COLUMN",
    help="Draw the receptive field of this unit only.  [default: the centre unit of each layer]",
)
def inspect(image: str, model: str | None, out: str, unit: str | None) -> None:
    """Draw the feature maps of every layer for IMAGE.

    Writes PNG files into a folder: the prediction, receptive fields, the first layer's kernels, and the feature maps
    of every layer.
    """
    from pathlib import Path

    from zoo.inspection.activations import look_inside, parse_unit
    from zoo.inspection.plots import draw_figures

    only = parse_unit(unit) if unit else None
    for path in draw_figures(look_inside(DEFAULT_MODEL if model is None else model, image), Path(out), only):
        click.echo(path)


@cli.command("list")
@click.argument("pattern", default="*", shell_complete=_complete_models)
@_json_option
def list_command(pattern: str, as_json: bool) -> None:
    """List models.

    PATTERN is the beginning of a name or a pattern with wildcards: zoo list cifar, zoo list '*.plus'.
    """
    from serve.cli.output import cards_json, model_table
    from zoo.registry import damaged, not_found

    for problem in damaged(pattern):
        say(f"zoo: {printable(str(problem))}")
    cards = zoo.list_models(pattern)
    if not cards:
        raise ModelNotFound(not_found(pattern, [card.name for card in zoo.list_models()]))
    if as_json:
        click.echo(cards_json(cards))
    else:
        model_table(cards)


@cli.command()
@click.argument("name", shell_complete=_complete_models)
@_json_option
def info(name: str, as_json: bool) -> None:
    """Show a model's card and its layers.

    NAME is a model name, the path of an .onnx file, or the path of a model folder. The card holds accuracy,
    calibration, training and licence; the table lists each layer's output size, receptive field, parameters and
    multiply-accumulates (MACs).
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
    """Check model files against their cards.

    Compares file hashes and the embedded card. If the test dataset is available, also recomputes the accuracy on it.
    NAME is a model name or a pattern with wildcards, the path of an .onnx file, or the path of a model folder.
    """
    import json

    passed, results = True, []
    for name in names:
        for model, check in _run_checks(name, data, device):
            passed = passed and check.passed is not False
            results.append({"model": model, "check": check.name, "passed": check.passed, "detail": check.detail})
            if not as_json:
                status = {True: "ok", False: "FAILED", None: "skipped"}[check.passed]
                click.echo(printable(f"{model}  {check.name:<18} {status:<8} {check.detail}"))
    if as_json:
        click.echo(json.dumps(results, indent=2))
    sys.exit(0 if passed else 1)


def _run_checks(name: str, data: str | None, device: Any) -> "Iterator[tuple[str, Check]]":
    """Check all models that match a name or pattern; yields (model name, check). A damaged model is a failed check."""
    from zoo import registry
    from zoo.model import locate
    from zoo.verify import Check
    from zoo.verify import verify as verify_model

    models: list[registry.Entry] | list[registry.Entry | Path]
    try:
        models = registry.scan(name) if registry.is_pattern(name) else [locate(name)]
        problems = registry.damaged(name) if registry.is_pattern(name) else []
    except BadModel as error:
        models, problems = [], [error]
    if not models and not problems:
        raise ModelNotFound(registry.not_found(name, [card.name for card in zoo.list_models()]))
    for problem in problems:
        yield name, Check("card", False, str(problem))
    for model in models:
        for check in verify_model(model, data, device):
            yield model.card.name if isinstance(model, registry.Entry) else name, check


class PortOption(click.Option):
    """The --port option; ignores the ZOO_PORT that Kubernetes sets for a service named "zoo" (tcp://ADDRESS:PORT)."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        if value is not None and value.startswith(("tcp://", "udp://", "sctp://")):
            say(f"zoo: Ignoring ZOO_PORT={value!r}: Kubernetes sets it for a service named zoo.")
            return None
        return value


@cli.command(context_settings={"auto_envvar_prefix": "ZOO"})
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Address to listen on.")
@click.option(
    "--port",
    cls=PortOption,
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    metavar="N",
    help="Port to listen on; 0 picks a free port.",
)
@click.option("--models", default="*", show_default=True, metavar="PATTERN", help="Models to serve.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Server processes."
)
@click.option(
    "--max-queue",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    metavar="N",
    help="Queued requests per process; further requests get 503.",
)
@click.option(
    "--max-body-mb",
    type=click.FloatRange(min=0.001),
    default=16,
    show_default=True,
    metavar="MB",
    help="Largest request body in megabytes.",
)
@click.option(
    "--deadline-ms",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    metavar="MS",
    help="Time limit per request in milliseconds.",
)
@click.option("--demo/--no-demo", default=True, show_default=True, help="Serve the web page at /.")
@click.option(
    "--access-log/--no-access-log", default=True, show_default=True, help="Log one JSON line per request to stderr."
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    envvar="ZOO_ALLOWED_HOST",
    metavar="NAME",
    help="Accept requests for this host name, '*' for any; repeatable.  [default: IP addresses, localhost, HOST]",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    envvar="ZOO_CORS_ORIGIN",
    metavar="ORIGIN",
    help="Allow pages of this site (https://example.org, or '*') to call the API; repeatable.  [default: none]",
)
@click.option(
    "--health-port",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="Also serve /v2/health/ on this port, which answers even under load.  [default: none]",
)
@_device_option
def serve(**options: Any) -> None:
    """Start the web page and the HTTP API.

    Runs until SIGINT (Ctrl-C) or SIGTERM. Every option can also be set as ZOO_<OPTION>, for example ZOO_MAX_BODY_MB.
    If ZOO_API_KEY is set, clients must send that key.
    """
    from serve.cli.serve import serve
    from serve.service.settings import Settings

    serve(Settings(**options, key=_api_key()))


def _api_key() -> str | None:
    """ZOO_API_KEY without surrounding whitespace: files and secrets often end in a newline. Raises WrongUsage."""
    from zoo.errors import WrongUsage

    value = os.environ.get("ZOO_API_KEY")
    if value is None:
        return None
    key = value.strip()
    if not key or not key.isprintable():
        raise WrongUsage("ZOO_API_KEY is empty or contains control characters. Set a key or unset the variable.")
    if key != value:
        say("zoo: Ignoring whitespace around the key in ZOO_API_KEY.")
    return key


@cli.command()
@_json_option
def doctor(as_json: bool) -> None:
    """Show versions, devices and damaged models.

    Runs a model on every device and checks every model file against its card. Paste the output into a bug report.
    """
    import json

    from serve.cli.doctor import examine

    rows, healthy = examine()
    if as_json:
        findings = [{"subject": subject, "finding": finding} for subject, finding in rows]
        click.echo(json.dumps({"well": healthy, "findings": findings}, indent=2))
    else:
        width = max(len(subject) for subject, _ in rows)
        for subject, finding in rows:
            click.echo(printable(f"{subject:<{width}}  {finding}"))
    sys.exit(0 if healthy else 3)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script for shell completion.

    \b
    bash: add  eval "$(zoo completion bash)"  to ~/.bashrc
    zsh:  add  eval "$(zoo completion zsh)"   to ~/.zshrc
    fish: save the output as ~/.config/fish/completions/zoo.fish
    """
    sys.exit(_run_shell_completion(f"{shell}_source"))


def _run_shell_completion(instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, "zoo", COMPLETION_VARIABLE, instruction)


def main() -> None:
    """Run the command and exit with its code; every expected failure prints one line on stderr, without a traceback."""
    # A closed stdout or stderr is replaced so that no file opened later gets its descriptor. Writing to stdout fails.
    sys.stdout = sys.stdout or open(os.devnull)
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):  # UTF-8 in files, the terminal's encoding elsewhere; escapes as needed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        sys.exit(_run_shell_completion(instruction))
    try:
        with cli.make_context("zoo", sys.argv[1:]) as context:
            cli.invoke(context)
        code = 0
    except click.exceptions.Exit as exit_:  # raised by --help and --version
        code = exit_.exit_code
    except click.ClickException as error:
        message = io.StringIO()
        error.show(message)
        for line in message.getvalue().rstrip("\n").split("\n"):
            say(line)
        code = error.exit_code
    except ZooError as error:
        say(f"zoo: {printable(str(error))}")
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:  # the reader has closed the pipe, for example `head`: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except MemoryError:
        say("zoo: Out of memory. Use a smaller model, or fewer or smaller images.")
        code = 1
    except OSError as error:
        if error.filename is None:  # a stream: stdout
            say(f"zoo: Cannot write the output ({reason(error)}).")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            say(f"zoo: Cannot open or write a file ({reason(error)}).")
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
