"""The process of one job (`serve/demo/jobs.py`): its resource limits, and the kinds of jobs."""

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

MAX_MEMORY_BYTES = 1 << 30  # of data
MAX_FILE_BYTES = 256 << 20
MAX_CPU_S = 120  # twice the deadline of `serve/demo/jobs.py`; it ends a job whose server was killed
NICE = 5  # below the server's own threads

Progress = Callable[[int, int | None], None]


def main(request: dict[str, Any]) -> None:
    """Run a job. Writes progress, then the result or an error, as lines of JSON to stdout."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries may print to stdout
    threading.Thread(target=_exit_with_server, daemon=True).start()
    _set_limits()

    def send(**message: Any) -> None:
        print(json.dumps(message), file=output, flush=True)

    try:
        send(result=JOB_FUNCTIONS[request["kind"]](request, lambda done, total: send(progress=[done, total])))
    except ZooError as error:
        send(error=str(error))
    except MemoryError:
        limit = f"{MAX_MEMORY_BYTES >> 30} GB"
        send(error=f"Out of memory (limit: {limit}). Use the command `zoo predict` or `zoo inspect`.")
    except Exception as error:
        traceback.print_exc()
        send(error=f"Internal server error ({type(error).__name__}). See the server's log.")


def _exit_with_server() -> None:
    os.read(0, 1)  # nothing more is sent: this returns when the server closes its end
    os._exit(1)


def _set_limits() -> None:
    if sys.platform == "win32":
        return
    import resource

    os.nice(NICE)
    for resource_kind, limit in (
        (resource.RLIMIT_DATA, MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_CPU, MAX_CPU_S),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # the limit is already lower
            resource.setrlimit(resource_kind, (limit, limit))
    with suppress(OSError):  # Linux only: if memory runs out, the kernel ends the job, not the server
        Path("/proc/self/oom_score_adj").write_text("1000")


def _classify(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from serve.demo.batches import classify

    return classify(progress=progress, **{key: value for key, value in request.items() if key != "kind"})


def _inspect(request: dict[str, Any], progress: Progress) -> str:
    """HTML of every layer."""
    from serve.demo.inside import html
    from zoo.images.read import Named
    from zoo.inspection.activations import look_inside

    path = Path(request["path"])
    return html(look_inside(request["model"], Named(path.name, path.read_bytes())))


JOB_FUNCTIONS: dict[str, Callable[[dict[str, Any], Progress], Any]] = {"batch": _classify, "inside": _inspect}
