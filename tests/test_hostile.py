"""Every command on hostile cards and model files: an error message, a documented exit code, bounded time and memory.

The commands run in a process of their own with limits, so that a crash, a hang or excessive memory fails one test and
does not end the test session. `python -m tests.test_hostile FOLDER` runs them on every file of a folder.
"""

import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXIT_CODES = {0, 1, 2, 3}
MAX_CPU_SECONDS = 5  # per command; the slowest took 0.6
MAX_ADDRESS_SPACE = 4 * 2**30  # bytes; onnxruntime and OpenCV reserve most of it


def run_command(*arguments: str) -> tuple[object, str, str, float]:
    """Returns exit code (or the exception that escaped), stdout, stderr and CPU seconds."""
    from serve.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    sys.argv, started, code = ["zoo", *arguments], time.process_time(), None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"
    return code, out.getvalue(), err.getvalue(), time.process_time() - started


def command_faults(*arguments: str) -> list[str]:
    """Run a command; returns what is wrong with its end or its output."""
    code, out, err, seconds = run_command(*arguments)
    problems = []
    if code not in EXIT_CODES:
        problems.append(f"exit code {code}")
    if not (out + err).replace("\n", "").isprintable():
        problems.append("printed control characters")
    if code != 0 and not err and "FAILED" not in out and "damaged" not in out:
        problems.append("no error message")
    if max(map(len, err.splitlines()), default=0) > 1000 or "Traceback" in err or "[E:onnxruntime" in out + err:
        problems.append(f"printed {err[:200]!r}")
    if seconds > MAX_CPU_SECONDS:
        problems.append(f"took {seconds:.1f} s")
    return [f"zoo {' '.join(arguments)}: {problem}" for problem in problems]


def library_faults(path: str) -> list[str]:
    """Load a model and classify an image; returns any error that is not a ZooError."""
    import numpy as np

    import zoo

    try:
        model = zoo.load(path, "cpu")
        (row,) = model.predict([np.full((28, 28), 200, np.uint8)])
        json.dumps(row.to_dict())
    except zoo.ZooError:
        pass
    except Exception as error:
        return [f"zoo.load({path!r}): {type(error).__name__}: {error}"]
    return []


def attack(folder: Path) -> list[str]:
    """Run all commands on all files of a folder, and on the models of its ZOO_HOME."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    picture, out = str(folder / "picture.png"), str(folder / "out")
    problems = [
        *command_faults("list"),
        *command_faults("list", "--json"),
        *command_faults("doctor"),
        *command_faults("verify", "own*"),
    ]
    for path in sorted((folder / "files").iterdir()):
        print(path, file=sys.stderr, flush=True)  # after a crash, the last line is the file at fault
        problems += library_faults(str(path))
        problems += [*command_faults("info", str(path)), *command_faults("verify", str(path), "--device", "cpu")]
        problems += command_faults("predict", picture, "--device", "cpu", "--model", str(path))
        problems += command_faults("inspect", picture, "--out", out, "--model", str(path))
    for path in sorted((folder / "home" / "models").iterdir()):
        name = path.name
        problems += [
            *command_faults("info", name),
            *command_faults("verify", name, "--device", "cpu"),
            *command_faults("verify", str(path)),
        ]
        problems += command_faults("predict", picture, "--device", "cpu", "--model", name)
    return problems


def run_attack(folder: Path) -> list[str]:
    environment = {**os.environ, "ZOO_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "ZOO_DATA": ""}
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_hostile", folder], env=environment, capture_output=True, text=True,
        timeout=300, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1500:]
    return json.loads(done.stdout)


def prepare(folder: Path, files: dict[str, bytes], cards: list[str]) -> None:
    """Write model files, a ZOO_HOME with cards, and a picture."""
    from PIL import Image

    (folder / "files").mkdir(parents=True)
    for name, content in files.items():
        (folder / "files" / name).write_bytes(content)
    for number, card in enumerate(cards):
        model = folder / "home" / "models" / f"own.{number}"
        model.mkdir(parents=True)
        (model / "card.json").write_text(card.replace('"mnist14k.plus"', f'"own.{number}"'), errors="surrogatepass")
        (model / "model.onnx").symlink_to("/dev/zero")
    (folder / "home" / "models").mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", (28, 28))
    picture.paste(255, (12, 5, 16, 23))
    picture.save(folder / "picture.png")


def sample(items, count, seed=0):
    items = list(items)
    return random.Random(seed).sample(items, min(count, len(items)))


@pytest.mark.slow
@pytest.mark.attack
def test_commands_survive_hostile_files(tmp_path):
    from tests.support import hostile

    files = {f"{number:03}-flipped.onnx": content for number, content in enumerate(hostile.flipped(80))}
    files |= {f"{kind}.onnx": content for kind, content in hostile.contradicting().items()}
    files |= {f"{kind}.onnx": model.SerializeToString() for kind, model in hostile.endless().items()}
    for place, model in hostile.with_external_data("../secret").items():
        files[f"external {place}.onnx"] = model.SerializeToString()
    texts = [text for text in hostile.cards() if len(text) < 2**20 and "\ud800" not in text]
    for number, text in enumerate(sample(texts, 60)):
        files[f"card-{number:02}.onnx"] = hostile.with_card(text)
    prepare(tmp_path, files, sample(hostile.cards(), 60, seed=1))
    assert len(files) > 150
    assert run_attack(tmp_path) == []


@pytest.mark.attack
def test_harness_detects_faults(tmp_path, monkeypatch):
    """It detects an exception that escapes and a control character."""
    monkeypatch.setattr("zoo.loading.card_of", lambda name: 1 / 0)
    assert command_faults("info", "x")[0] == "zoo info x: exit code ZeroDivisionError: division by zero"
    monkeypatch.setattr("serve.cli.output.card_page", lambda card, source: print("\x1b[31m"))
    for function in ("card_of", "locate"):
        monkeypatch.setattr(f"zoo.loading.{function}", lambda name: None)
    assert command_faults("info", "x") == ["zoo info x: printed control characters"]


if __name__ == "__main__":
    faulthandler.enable()
    print(json.dumps(attack(Path(sys.argv[1]))))
