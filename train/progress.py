"""Progress of a training on stderr: a live bar on a terminal, otherwise one line per epoch."""

import sys
import time
from typing import Any


class Progress:
    """Shows loss, accuracy, images/s and remaining time. Use it as a context manager around the epochs."""

    def __init__(self, title: str, live: bool | None = None, quiet: bool = False) -> None:
        """Args:
        live: whether to show a bar; by default on a terminal.
        quiet: show nothing at all.
        """
        self.title, self.quiet = title, quiet
        self.live = sys.stderr.isatty() if live is None else live
        self._bar: Any = None
        self._epoch, self._epoch_start = -1, 0.0

    def __enter__(self) -> "Progress":
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(self.title, total=1.0, status="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def note(self, message: str) -> None:
        """Print a message about the run."""
        if not self.quiet:
            print(f"{self.title}: {message}", file=sys.stderr, flush=True)

    def step(self, epoch: int, epochs: int, seen: int, total: int, loss: float, accuracy: float) -> None:
        """Show the running means after a batch; epochs count from 0."""
        if not self._bar:
            return
        if self._epoch != epoch:
            self._epoch, self._epoch_start = epoch, time.perf_counter()
        rate = seen / max(time.perf_counter() - self._epoch_start, 1e-3)
        status = f"epoch {epoch + 1}/{epochs}  loss {loss:.4f}  accuracy {accuracy:.2%}  {rate:,.0f} images/s"
        self._bar.update(self._task, completed=(epoch + seen / total) / epochs, status=status)

    def epoch_done(self, line: dict[str, Any]) -> None:
        """Print an epoch's line of metrics.jsonl, if there is no live bar."""
        if self._bar or self.quiet:
            return
        validation = f"  validation {line['validation_accuracy']:.2%}" if "validation_accuracy" in line else ""
        print(
            f"{self.title}  epoch {line['epoch']}  rate {line['learning_rate']:.6f}  loss {line['train_loss']:.4f}  "
            f"accuracy {line['train_accuracy']:.2%}{validation}  {line['images_per_s']:,.0f} images/s",
            file=sys.stderr,
            flush=True,
        )
