"""Every command on hostile cards and model files: a sentence, the right exit code, bounded time and memory.

The commands run in a process of their own with limits, so that a crash, a hang or a gigabyte is a failed test and
not the end of all tests: `python -m tests.test_hostile FOLDER` runs them on every file of a folder.
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

CODES = {0, 1, 2, 3}
SECONDS = 5  # of CPU, a command; the slowest measured took 0.6
MEMORY = 4 * 2**30  # bytes of address space, of which onnxruntime and OpenCV reserve most


def command(*arguments: str) -> tuple[object, str, str, float]:
    """Exit code (or the exception that escaped), stdout, stderr, CPU seconds."""
    from serve.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    sys.argv, started, code = ["zoo", *arguments], time.process_time(), None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as left:
        code = left.code
    except BaseException as error:
        code = f"{type(error).__name__}: {error}"
    return code, out.getvalue(), err.getvalue(), time.process_time() - started


def faults(*arguments: str) -> list[str]:
    """What is wrong with how a command ended."""
    code, out, err, seconds = command(*arguments)
    found = []
    if code not in CODES:
        found.append(f"left with {code}")
    if not (out + err).replace("\n", "").isprintable():
        found.append("printed control characters")
    if code != 0 and not err and "FAILED" not in out and "damaged" not in out:
        found.append("said nothing")
    if max(map(len, err.splitlines()), default=0) > 1000 or "Traceback" in err or "[E:onnxruntime" in out + err:
        found.append(f"said {err[:200]!r}")
    if seconds > SECONDS:
        found.append(f"took {seconds:.1f} s")
    return [f"zoo {' '.join(arguments)}: {fault}" for fault in found]


def library_faults(path: str) -> list[str]:
    """The same of zoo.load and predict: only ZooErrors are raised."""
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
    """All commands on all files of a folder, and on a home folder of such models."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    picture, out = str(folder / "picture.png"), str(folder / "out")
    found = [*faults("list"), *faults("list", "--json"), *faults("doctor"), *faults("verify", "own*")]
    for path in sorted((folder / "files").iterdir()):
        print(path, file=sys.stderr, flush=True)  # the last line of a crash names its file
        found += library_faults(str(path))
        found += [*faults("info", str(path)), *faults("verify", str(path), "--device", "cpu")]
        found += faults("predict", picture, "--device", "cpu", "--model", str(path))
        found += faults("inspect", picture, "--out", out, "--model", str(path))
    for path in sorted((folder / "home" / "models").iterdir()):
        name = path.name
        found += [*faults("info", name), *faults("verify", name, "--device", "cpu"), *faults("verify", str(path))]
        found += faults("predict", picture, "--device", "cpu", "--model", name)
    return found


def run_attack(folder: Path) -> list[str]:
    environment = {**os.environ, "ZOO_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "ZOO_DATA": ""}
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_hostile", folder], env=environment, capture_output=True, text=True,
        timeout=300, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1500:]
    return json.loads(done.stdout)


def prepare(folder: Path, files: dict[str, bytes], cards: list[str]) -> None:
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


def some(things, count, seed=0):
    things = list(things)
    return random.Random(seed).sample(things, min(count, len(things)))


@pytest.mark.attack
def test_commands_survive_hostile_files(tmp_path):
    from tests.support import hostile

    files = {f"{number:03}-flipped.onnx": content for number, content in enumerate(hostile.flipped(80))}
    files |= {f"{kind}.onnx": content for kind, content in hostile.contradicting().items()}
    files |= {f"{kind}.onnx": model.SerializeToString() for kind, model in hostile.endless().items()}
    for place, model in hostile.with_external_data("../secret").items():
        files[f"external {place}.onnx"] = model.SerializeToString()
    texts = [text for text in hostile.cards() if len(text) < 2**20 and "\ud800" not in text]
    for number, text in enumerate(some(texts, 60)):
        files[f"card-{number:02}.onnx"] = hostile.with_card(text)
    prepare(tmp_path, files, some(hostile.cards(), 60, seed=1))
    assert len(files) > 150
    assert run_attack(tmp_path) == []


@pytest.mark.attack
def test_harness_detects_faults(tmp_path, monkeypatch):
    """The harness itself: an escaped exception, a traceback and a control character are found."""
    monkeypatch.setattr("zoo.model.card_of", lambda name: 1 / 0)
    assert faults("info", "x")[0] == "zoo info x: left with ZeroDivisionError: division by zero"
    monkeypatch.setattr("serve.cli.output.card_page", lambda card: print("\x1b[31m"))
    monkeypatch.setattr("zoo.model.card_of", lambda name: None)
    assert faults("info", "x") == ["zoo info x: printed control characters"]


if __name__ == "__main__":
    faulthandler.enable()
    print(json.dumps(attack(Path(sys.argv[1]))))
