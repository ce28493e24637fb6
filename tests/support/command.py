"""Run the `zoo` command in tests: in a process of its own, or in this process, which is faster."""

import os
import subprocess
import sys

import pytest

ZOO = [sys.executable, "-m", "serve.cli"]


def zoo(*arguments, env=None, **options):
    """Run the command in a process of its own; output as text unless `text=False`."""
    options = {"capture_output": True, "text": True, "timeout": 120} | options
    return subprocess.run([*ZOO, *map(str, arguments)], env=os.environ | (env or {}), **options)


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command in this process; returns exit code, stdout, stderr."""
    from serve.cli import main

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["zoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return call
