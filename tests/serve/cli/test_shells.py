"""`zoo completion` in the shells themselves: commands, options, model names and files."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

CASES = [  # what is typed, what it becomes
    ("zoo pred", "zoo predict "),
    ("zoo info mnist4k.p", "zoo info mnist4k.plus "),
    ("zoo predict -m mnist4k.p", "zoo predict -m mnist4k.plus "),
    ("zoo predict --top", "zoo predict --top-k "),
    ("zoo add strange", "zoo add strange.onnx "),
]


@pytest.fixture
def environment(tmp_path):
    """A home folder, a `zoo` on the PATH that runs this code, and a file to complete."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "zoo"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m serve.cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "strange.onnx").write_bytes(b"")
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), os.getcwd()]).strip(os.pathsep)
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": path,
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "PS1": "$ ",
    }


def need(shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")


def type_in(argv, setup, typed, environment, folder):
    """Type a line and Tab in an interactive shell; returns what the terminal shows for it."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvpe(argv[0], argv, environment)

    def read(until, seconds=30.0):
        shown, end = b"", time.monotonic() + seconds
        while until not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    shown += os.read(terminal, 65536)
                except OSError:  # the shell has ended
                    break
        return shown

    try:
        for line in [*setup, "echo re''ady"]:
            os.write(terminal, line.encode() + b"\n")
        read(b"ready")
        read(b"never", 0.3)
        os.write(terminal, typed.encode() + b"\t")
        return read(b"never", 4.0).decode(errors="replace")
    finally:
        os.close(terminal)
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab_in_an_interactive_shell(shell, environment, tmp_path):
    need(shell)
    argv = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}[shell]
    setup = {"bash": [], "zsh": ["autoload -Uz compinit && compinit -u"]}[shell]
    typed, completed = CASES[1]
    shown = type_in(argv, [*setup, f'eval "$(zoo completion {shell})"'], typed, environment, tmp_path)
    assert completed.strip().removeprefix("z") in shown


@pytest.mark.parametrize(("typed", "completed"), CASES)
def test_bash_function(environment, tmp_path, typed, completed):
    need("bash")
    words = typed.split()
    script = (
        'eval "$(zoo completion bash)"; complete -p zoo >/dev/null || exit 9; '
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _zoo_completion zoo; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    offered = done.stdout.split()
    if words[-1].startswith("strange"):  # files are completed by bash itself, which adds to an empty list
        assert (done.returncode, offered) == (0, [])
    else:
        assert completed.split()[-1] in offered, done.stderr
    assert all(word.startswith(words[-1]) for word in offered)


@pytest.mark.parametrize(("typed", "completed"), CASES)
def test_fish(environment, tmp_path, typed, completed):
    need("fish")
    folder = tmp_path / ".config" / "fish" / "completions"
    folder.mkdir(parents=True)
    script = subprocess.run(["zoo", "completion", "fish"], env=environment, capture_output=True, text=True, check=True)
    (folder / "zoo.fish").write_text(script.stdout)
    done = subprocess.run(
        ["fish", "-c", f"complete -C '{typed}'"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert completed.split()[-1] in done.stdout.split(), done.stderr
