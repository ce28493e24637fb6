"""The process of one job (`serve/demo/jobs.py`): what it may use, and what it does."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.errors import ZooError

MEMORY_BYTES = 1 << 30  # of data
LARGEST_FILE = 256 << 20  # bytes that it may write into one
CPU_S = 120  # twice the deadline of `serve/demo/jobs.py`: an end for a job whose server was killed
NICE = 5  # the server's own threads come first

Progress = Callable[[int, int | None], None]


def main(request: dict[str, Any]) -> None:
    """Do what the request says; progress, and the result or an error, as lines of JSON on stdout."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    threading.Thread(target=_end_with_server, daemon=True).start()
    _limit()

    def answer(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    try:
        answer(result=KINDS[request["kind"]](request, lambda done, total: answer(progress=[done, total])))
    except ZooError as error:
        answer(error=str(error))
    except MemoryError:
        answer(error=f"This needs more than the {MEMORY_BYTES >> 30} GB of memory that the page may have: use the "
                     "command, `zoo predict` or `zoo inspect`.")  # fmt: skip
    except Exception as error:
        traceback.print_exc()
        answer(error=f"The server failed at this job ({type(error).__name__}): its log has the details.")


def _end_with_server() -> None:
    os.read(0, 1)  # nothing more is written there: it returns when the other end is closed
    os._exit(1)


def _limit() -> None:
    if sys.platform == "win32":
        return
    import resource

    os.nice(NICE)
    for kind, most in ((resource.RLIMIT_DATA, MEMORY_BYTES), (resource.RLIMIT_FSIZE, LARGEST_FILE),
                       (resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_CORE, 0)):  # fmt: skip
        with suppress(ValueError, OSError):  # it is lower already
            resource.setrlimit(kind, (most, most))
    with suppress(OSError):  # of this system alone; where all memory is used, a job ends and not the server
        Path("/proc/self/oom_score_adj").write_text("1000")


def _classify(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from serve.demo.batches import classify

    return classify(progress=progress, **_without(request, "kind"))


def _look_inside(request: dict[str, Any], progress: Progress) -> list[str]:
    """Pictures of every layer at work, by their names in the folder, in reading order."""
    from zoo.images.read import Named
    from zoo.inspection.activations import look_inside
    from zoo.inspection.plots import write_pictures

    path = Path(request["path"])
    inside = look_inside(request["model"], Named(path.name, path.read_bytes()))
    return [picture.name for picture in write_pictures(inside, Path(request["folder"]))]


def _without(request: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in request.items() if key != name}


KINDS: dict[str, Callable[[dict[str, Any], Progress], Any]] = {"batch": _classify, "inside": _look_inside}
