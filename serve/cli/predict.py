"""`zoo predict`: from what was typed to rows, a summary on stderr, and an exit code."""

import hashlib
import os
import sys
from dataclasses import dataclass
from typing import Any

from serve.batch.archives import Bounds
from serve.batch.chunks import Block, Job
from serve.batch.formats import Encoding, table_width
from serve.batch.inputs import Input, Options, expand, total
from serve.batch.outputs import check_out, encoding_of, open_output
from serve.batch.pipeline import FEW, Output, Summary, TooManyErrors, run
from serve.batch.resume import OutputError, Parts
from serve.batch.signals import one_interruption
from serve.devices import CUDA_FROM, load_for
from serve.messages import say
from zoo.errors import BadInput
from zoo.model import Model, load, onnx_bytes
from zoo.runtime import Device

MAX_MEGAPIXELS = "ZOO_MAX_MEGAPIXELS"  # read by the decoders


@dataclass(frozen=True)
class Request:
    """The options of the command, by their names; by_default: nobody chose the model."""

    images: tuple[str, ...]
    model: str
    top_k: int
    form: str | None
    fit: Any
    device: Device
    out: str | None = None
    resume: bool = False
    max_errors: int | None = None
    allow_url: bool = False
    workers: int | None = None
    by_default: bool = False
    column: str | None = None
    max_megapixels: float | None = None


def predict(request: Request) -> int:
    """Returns the exit code: 0, 1 where images failed, 2 where an argument held none."""
    with one_interruption():
        return _predict(request)


def _predict(request: Request) -> int:
    bounds = Bounds()
    if request.max_megapixels is not None:
        os.environ[MAX_MEGAPIXELS] = f"{request.max_megapixels:g}"  # which worker processes inherit
        bounds = bounds.for_pictures_of(request.max_megapixels)
    encoding = encoding_of(request.out, request.form)
    model = load(request.model, request.device)
    options = Options(request.allow_url, request.column, bounds)
    if request.by_default or request.device == "auto":
        chosen = " (the default model)" if request.by_default else ""
        say(f"{model.card.name}{chosen} on {model.device}")
    inputs, without_images = [], 0
    for argument in request.images:
        try:
            inputs.append(expand(argument, options))
        except BadInput as error:
            say(f"zoo: {error}")
            without_images += 1
    if not inputs:
        return 2
    if request.device == "auto" and (count := total(inputs) or 0) >= CUDA_FROM:
        model = load_for(request.model, "auto", count)
        if model.device == "cuda":
            say(f"{model.card.name} on cuda, for {count:,} images")
    if request.out is not None:
        check_out(request.out, (name for given in inputs for name in given.files()))
    width = table_width([name for given in inputs for name in given.names])
    output = open_output(request.out, encoding, _asked(request, model, encoding), request.resume, width)
    job = Job(model, request.top_k, request.fit, encoding, width, identify=isinstance(output, Parts))
    summary = _watched(inputs, job, output, request)
    for argument in summary.empty:
        say(f"zoo: {argument} holds no images.")
    failed = summary.failed.total()
    if failed or summary.skipped or summary.count > FEW or isinstance(output, Parts):
        say(f"zoo: {summary.told()}")
    earlier = output.failed_before().total() if isinstance(output, Parts) else 0
    return 2 if without_images or summary.empty else 1 if failed or earlier else 0


def _asked(request: Request, model: Model, encoding: Encoding) -> dict[str, Any]:
    """What decides the rows beside the images."""
    return {
        "model": model.card.name,
        "model_sha256": hashlib.sha256(onnx_bytes(model)).hexdigest(),
        "top_k": request.top_k,
        "fit": request.fit,
        "form": encoding,
        "device": model.device,
        "max_megapixels": os.environ.get(MAX_MEGAPIXELS),
        "column": request.column,
    }


def _watched(inputs: list[Input], job: Job, output: Output, request: Request) -> Summary:
    """Run with a progress bar where a person watches; what interrupts it leaves whole parts behind."""
    count, done = total(inputs), output.kept if isinstance(output, Parts) else 0
    rows_on_screen = request.out is None and sys.stdout.isatty()
    shown = sys.stderr.isatty() and not rows_on_screen and (count is None or count > FEW)
    try:
        if not shown:
            return run(inputs, job, output, request.max_errors, request.workers)

        with Bar(count, done) as bar:
            return run(inputs, job, output, request.max_errors, request.workers, bar.advance)
    except OutputError:
        raise  # nothing more can be written
    except BaseException as error:
        if isinstance(output, Parts):
            output.close_part()
            if isinstance(error, KeyboardInterrupt | SystemExit | TooManyErrors):
                say(f"zoo: {output.kept:,} rows are kept in {output.folder}: --resume goes on.")
        raise


# A bar on stderr for a person who waits: images done, rate, time left.


class Bar:
    """Use as a context manager; `advance` is told of every block that was written."""

    def __init__(self, count: int | None, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._failed = 0
        self._bar: Any = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn(),
            console=Console(stderr=True), refresh_per_second=4,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=count, completed=done, said="")

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, block: Block) -> None:
        self._failed += block.failed.total()
        speed = self._bar.tasks[0].speed
        rate = f"{speed:,.0f} images/s" if speed else ""
        said = f"{rate}, {self._failed:,} failed" if self._failed else rate
        self._bar.update(self._task, advance=block.count, said=said)
