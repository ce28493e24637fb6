"""The `zoo` command: parse, one library call, print. Data go to stdout, everything else to stderr.

Exit codes: 0 all done; 1 some inputs failed, or a verification did; 2 wrong usage, or nothing to do; 3 model, runtime
or device not available; 130 interrupted, 143 by SIGTERM.
"""

import io
import os
import sys
from typing import Any

import click

import zoo
from serve.say import say
from serve.settings import DEFAULT_MODEL
from zoo.errors import BadModel, DeviceUnavailable, ModelNotFound, WrongUsage, ZooError, reason

EXIT_CODES: dict[type[ZooError], int] = {  # any other: 1
    WrongUsage: 2,
    ModelNotFound: 3,
    BadModel: 3,
    DeviceUnavailable: 3,
}

_model_option = click.option("--model", "-m", help=f"Name, or path to an .onnx file.  [default: {DEFAULT_MODEL}]")
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
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
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
    from serve.predicting import Request, predict

    borne = 0 if on_error == "fail" else max_errors
    sys.exit(predict(Request(model=model or DEFAULT_MODEL, by_default=model is None, max_errors=borne, **options)))


@cli.command()
@click.argument("image")
@_model_option
@click.option("--out", "-o", type=click.Path(file_okay=False), default="inside", show_default=True, help="Folder.")
@click.option(
    "--unit", metavar="LAYER:ROW,COLUMN", help="Whose receptive field to draw.  [default: the middle of each]"
)
def inspect(image: str, model: str | None, out: str, unit: str | None) -> None:
    """Look inside: what every layer makes of IMAGE, the first kernels, receptive fields, as pictures in a folder."""
    from pathlib import Path

    from zoo.inspect import look_inside, parse_unit
    from zoo.pictures import write_pictures

    chosen = parse_unit(unit) if unit else None
    for path in write_pictures(look_inside(DEFAULT_MODEL if model is None else model, image), Path(out), chosen):
        click.echo(path)


@cli.command("list")
@click.argument("pattern", default="*")
def list_command(pattern: str) -> None:
    """List models; PATTERN may hold wildcards (zoo list 'mnist*')."""
    from serve.show import model_table
    from zoo.registry import damaged

    for problem in damaged():
        say(f"zoo: {problem}")
    cards = zoo.list_models(pattern)
    if not cards:
        raise ModelNotFound(f"No model matches {pattern!r}: `zoo list` shows all models.")
    model_table(cards)


@cli.command()
@click.argument("name")
def info(name: str) -> None:
    """Show a model's card, and its layers with output size, receptive field, parameters and MACs."""
    from serve.show import card_page
    from zoo.registry import find

    card_page(find(name).card)


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_data_option
@_device_option
def verify(names: tuple[str, ...], data: str | None, device: str) -> None:
    """Check models: hashes, embedded card, and with the data here the accuracy on all test images."""
    from zoo.registry import find, scan
    from zoo.verify import verify as checks_of

    passed = True
    for name in names:
        entries = scan(name) if any(sign in name for sign in "*?[") else [find(name)]
        if not entries:
            raise ModelNotFound(f"No model matches {name!r}: `zoo list` shows all models.")
        for entry in entries:
            for check in checks_of(entry, data, device):  # type: ignore[arg-type]  # click has checked it
                mark = {True: "ok", False: "FAILED", None: "skipped"}[check.passed]
                click.echo(f"{entry.card.name}  {check.name:<18} {mark:<8} {check.detail}")
                passed = passed and check.passed is not False
    sys.exit(0 if passed else 1)


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
@_device_option
def serve(**options: Any) -> None:
    """Answer people (a page) and programs (HTTP) until stopped; each option is also read from ZOO_ and its name.

    ZOO_API_KEY in the environment is the key that clients must show.
    """
    from serve.serving import serve
    from serve.settings import Settings

    serve(Settings(**options, key=os.environ.get("ZOO_API_KEY") or None))


@cli.command()
def doctor() -> None:
    """Show what is installed, which devices really work, and whether the models are whole."""
    from serve.doctor import examine

    rows, well = examine()
    width = max(len(subject) for subject, _ in rows)
    for subject, finding in rows:
        click.echo(f"{subject:<{width}}  {finding}")
    sys.exit(0 if well else 3)


def main() -> None:
    """Run the command and leave with its exit code; every expected failure is one sentence on stderr."""
    sys.stdout = sys.stdout or open(os.devnull)  # closed: no file of ours shall take its place; to write fails
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):  # any name can be printed: into files as UTF-8, on terminals as they can
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    try:
        with cli.make_context("zoo", sys.argv[1:]) as context:
            cli.invoke(context)
        code = 0
    except click.exceptions.Exit as left:  # of --help and --version
        code = left.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except ZooError as error:
        say(f"zoo: {error}")
        code = EXIT_CODES.get(type(error), 1)
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:  # the reader, `head` for one, has left: no reason to complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
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
