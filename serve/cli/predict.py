"""`zoo predict`: classify images, print or write their rows; a summary goes to stderr.

Up to 256 files take the short way: paths → `Model.rows` → format → print. Everything else (more images, archives, URLs,
-o) runs in `serve.batch.pipeline`, with worker processes and a resumable output file.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import click

from serve.batch.archives import Bounds
from serve.batch.formats import Encoding, table_width
from serve.batch.inputs import ImageArgument, Options, expand, total
from serve.batch.outputs import SUFFIXES, Stdout, check_out, encoding_of, open_output
from serve.batch.pipeline import MAX_IMAGES_IN_PROCESS, BatchJob, Block, Output, Summary, TooManyErrors, run
from serve.batch.signals import interrupt_once
from serve.cli.options import FiniteRange, complete_files, device_choice, model_option
from serve.devices import CUDA_MIN_IMAGES, load_for
from serve.messages import say
from serve.service.settings import DEFAULT_MODEL
from zoo.classification import CHUNK
from zoo.columns import Columns
from zoo.errors import BadInput, WrongUsage
from zoo.images.read import Named
from zoo.loading import load
from zoo.model import Model, onnx_bytes
from zoo.runtime import Device

MAX_MEGAPIXELS = "ZOO_MAX_MEGAPIXELS"  # environment variable, read by the decoders


@dataclass(frozen=True)
class PredictOptions:
    """The command's options, under their own names."""

    images: tuple[str, ...]
    model: str
    top_k: int
    output_format: str | None
    fit: Any
    device: Device
    out: str | None = None
    resume: bool = False
    max_errors: int | None = None  # 0 for --on-error fail
    allow_url: bool = False
    workers: int | None = None
    is_default_model: bool = False  # --model was not given
    column: str | None = None
    max_megapixels: float | None = None
    engine: str = "local"
    single: bool = False


def predict(options: PredictOptions) -> int:
    """Run the command; returns its exit code: 0, 1 if images failed, 2 if an argument has no images."""
    with interrupt_once():
        return _predict(options)


def _predict(options: PredictOptions) -> int:
    encoding = _encoding(options)
    input_options = _input_options(options)
    model = load(options.model, options.device)
    if options.is_default_model or options.device == "auto":
        default = " (the default model)" if options.is_default_model else ""
        say(f"{model.card.name}{default} on {model.device}")
    inputs = []
    for argument in options.images:
        try:
            inputs.append(expand(argument, input_options))
        except BadInput as error:
            say(f"zoo: {error}")
    if not inputs:
        return 2
    count = total(inputs)
    if options.engine == "local" and options.device == "auto" and count is not None and count >= CUDA_MIN_IMAGES:
        model = load_for(options.model, "auto", count)
        if model.device == "cuda":
            say(f"{model.card.name} on cuda, for {count:,} images")
    width = table_width([name for argument in inputs for name in argument.names])
    if options.engine == "ray":
        summary, has_failures = _run_on_ray(inputs, model, options)
    elif _is_batch(inputs, count, options, encoding):
        summary, has_failures = _run_batch(inputs, model, options, encoding, width)
    else:
        summary = _print_rows(inputs, model, options, encoding, width)
        has_failures = bool(summary.failed)
    for argument in summary.empty:
        say(f"zoo: {argument} contains no images.")
    if summary.failed or summary.skipped or summary.count > MAX_IMAGES_IN_PROCESS or options.out is not None:
        say(f"zoo: {summary.summary_line()}")
    return 2 if len(inputs) < len(options.images) or summary.empty else 1 if has_failures else 0


def _encoding(options: PredictOptions) -> Encoding:
    """The format of the rows. Raises WrongUsage."""
    if options.engine == "local":
        return encoding_of(options.out, options.output_format)
    if options.out is None:
        raise WrongUsage(f"--engine {options.engine} writes one file per block: add -o DIR.")
    if options.output_format not in (None, "parquet") or os.path.splitext(options.out)[1] in SUFFIXES:
        raise WrongUsage(f"--engine {options.engine} writes parquet files into a folder: use -o DIR.")
    if options.device == "cuda":
        raise WrongUsage(f"--engine {options.engine} runs on CPUs: leave out --device.")
    return encoding_of(None, "parquet")


def _input_options(options: PredictOptions) -> Options:
    bounds = Bounds()
    if options.max_megapixels is not None:
        os.environ[MAX_MEGAPIXELS] = f"{options.max_megapixels:g}"  # inherited by worker processes
        bounds = bounds.for_images_of(options.max_megapixels)
    is_small = options.out is None and options.engine == "local" and len(options.images) <= MAX_IMAGES_IN_PROCESS
    return Options(options.allow_url, True, options.column, bounds, load_small_files=is_small)


def _is_batch(inputs: list[ImageArgument], count: int | None, options: PredictOptions, encoding: Encoding) -> bool:
    """Whether the run needs `serve.batch.pipeline`; if not, all images are files or bytes that are known in advance."""
    if options.out is not None or options.resume or encoding == "parquet":
        return True
    if count is None or count > MAX_IMAGES_IN_PROCESS:
        return True
    return not all(argument.sources is not None and _are_plain(argument.sources) for argument in inputs)


def _are_plain(sources: Sequence[object]) -> bool:
    return all(isinstance(source, str | Named) for source in sources)


def _print_rows(
    inputs: list[ImageArgument], model: Model, options: PredictOptions, encoding: Encoding, width: int
) -> Summary:
    """Classify a few images in this process; prints the rows of each session call at once."""
    summary, started, stdout = Summary(), time.perf_counter(), Stdout(encoding, width)
    sources = [source for argument in inputs for source in argument.images()]
    rows = model.rows(sources, options.top_k, options.fit, single=options.single)
    while chunk := list(islice(rows, CHUNK)):
        block = Block.of(Columns.from_rows(chunk), encoding, width)
        summary.check_errors(block, options.max_errors)
        stdout.write(block)
        summary.add(block)
    summary.skipped = sum(argument.skipped() for argument in inputs)
    summary.seconds = time.perf_counter() - started
    return summary


# Batches: many images, or images that are read lazily


def _run_batch(
    inputs: list[ImageArgument], model: Model, options: PredictOptions, encoding: Encoding, width: int
) -> tuple[Summary, bool]:
    """Run `serve.batch.pipeline`; returns its summary, and whether images failed in this run or the one it resumes."""
    from serve.batch.resume import OutputError, Parts

    if options.out is not None:
        check_out(options.out, (name for argument in inputs for name in argument.files()))
    output = open_output(options.out, encoding, _row_options(options, model, encoding), options.resume, width)
    is_file = isinstance(output, Parts)
    job = BatchJob(model, options.top_k, options.fit, options.single, encoding, width, identify=is_file)
    try:
        summary = _run_with_progress(inputs, job, output, options)
    except OutputError:
        raise  # no more rows can be saved
    except BaseException as error:
        if isinstance(output, Parts):
            output.close_part()
            if isinstance(error, KeyboardInterrupt | SystemExit | TooManyErrors):
                say(f"zoo: {output.saved_rows:,} rows are saved in {output.saved_in}. Continue with --resume.")
        raise
    finally:
        if isinstance(output, Parts):
            output.release()
    return summary, bool(summary.failed or (isinstance(output, Parts) and output.failed()))


def _run_on_ray(inputs: list[ImageArgument], model: Model, options: PredictOptions) -> tuple[Summary, bool]:
    """As `_run_batch`, on a Ray cluster."""
    from serve.batch.ray_engine import run_on_ray

    assert options.out is not None
    job = BatchJob(model, options.top_k, options.fit, options.single, "parquet")
    row_options = _row_options(options, model, "parquet")
    return run_on_ray(
        inputs,
        job,
        _input_options(options),
        options.out,
        row_options,
        options.resume,
        options.max_errors,
        options.workers,
    )


def _row_options(options: PredictOptions, model: Model, encoding: Encoding) -> dict[str, Any]:
    """Everything that decides the rows besides the images; --resume requires that it has not changed."""
    import hashlib

    return {
        "model": model.card.name,
        "model_sha256": hashlib.sha256(onnx_bytes(model)).hexdigest(),
        "top_k": options.top_k,
        "fit": options.fit,
        "single": options.single,
        "form": encoding,
        "device": model.device,
        "max_megapixels": os.environ.get(MAX_MEGAPIXELS),
        "column": options.column,
    }


def _run_with_progress(inputs: list[ImageArgument], job: BatchJob, output: Output, options: PredictOptions) -> Summary:
    """Run with a progress bar if stderr is a terminal and the rows are not printed to one."""
    from serve.batch.resume import Parts

    count, done = total(inputs), output.saved_rows if isinstance(output, Parts) else 0
    is_terminal = sys.stderr.isatty() and not (options.out is None and sys.stdout.isatty())
    if not is_terminal or (count is not None and count <= MAX_IMAGES_IN_PROCESS):
        return run(inputs, job, output, options.max_errors, options.workers)
    with ProgressBar(count, done) as bar:
        return run(inputs, job, output, options.max_errors, options.workers, bar.advance)


class ProgressBar:
    """A bar on stderr with images done, rate and time left; a context manager."""

    def __init__(self, total: int | None, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._failed = 0
        self._bar: Any = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("", total=total, completed=done, status="")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, block: Block) -> None:
        """Count a block that was written."""
        self._failed += block.failed.total()
        speed = self._bar.tasks[0].speed
        rate = f"{speed:,.0f} images/s" if speed else ""
        status = f"{rate}, {self._failed:,} failed" if self._failed else rate
        self._bar.update(self._task, advance=block.count, status=status)


@click.command("predict")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", shell_complete=complete_files)
@model_option
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
    help="Fit photos to the input: crop the centre, or pad the whole image. Ignored for digits.",
)
@click.option("--single", is_flag=True, help="Refuse images of several digits instead of reading the number.")
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
    type=FiniteRange(min=0.1, max=1000),
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
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where to run: on this machine, or on a Ray cluster (RAY_ADDRESS), which writes parquet files into -o DIR.",
)
@click.option(
    "--device",
    type=device_choice,
    default="auto",
    show_default=True,
    help="Device to run on; auto is the CPU, or CUDA for 200,000 images or more.",
)
def command(model: str | None, on_error: str, max_errors: int | None, **options: Any) -> None:
    """Classify images; prints one row per image.

    \b
    IMAGE is one of:
      an image file, a folder, a glob pattern or a URL
      s3://BUCKET/PREFIX, gs:// or hf://: objects below it, or a pattern
      a zip or tar archive, or a parquet file with an image column
      @FILE  a text file with one path or URL per line; @- reads it from stdin
      -      the bytes of one image on stdin
    """
    limit = 0 if on_error == "fail" else max_errors
    sys.exit(
        predict(
            PredictOptions(model=model or DEFAULT_MODEL, is_default_model=model is None, max_errors=limit, **options)
        )
    )
