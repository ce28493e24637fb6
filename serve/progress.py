"""A bar on stderr for a person who waits: images done, rate, time left."""

from typing import Any

from serve.blocks import Block


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
