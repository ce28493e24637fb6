"""Runs the steps of the Dockerfile, and what the image starts, without a container engine.

The Dockerfile itself is read: its stages, variables, folders, commands and health check. Each command runs in
bubblewrap with a root of its own that holds the system's programs, this Python at /usr/local, as in the image's base,
and the files that the Dockerfile made so far. What this cannot show: that the base image has what the system here has.

`python -m tests.deploy.image` builds with everything from the package index, as `docker build` does, and runs the
health check.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.paths import REPOSITORY
from tests.support.server import free_port, wait_for

DOCKERFILE = REPOSITORY / "Dockerfile"
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/sbin", "/etc")
KEY = "secret-of-the-test"


@dataclass
class Stage:
    """A stage of a Dockerfile: its instructions as (name, arguments)."""

    base: str
    name: str
    instructions: list = field(default_factory=list)

    def all(self, instruction):
        return [arguments for name, arguments in self.instructions if name == instruction]

    def last(self, instruction):
        return self.all(instruction)[-1]


def stages(text=None):
    """The stages of the Dockerfile by name; the last one is also called `image`."""
    text = re.sub(r"^\s*#.*\n", "", text or DOCKERFILE.read_text(), flags=re.MULTILINE)
    found = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        name, _, arguments = line.strip().partition(" ")
        if name == "FROM":
            base, _, stage = arguments.partition(" AS ")
            found.append(Stage(base, stage))
        elif name and found:
            found[-1].instructions.append((name, arguments.strip()))
    return {stage.name: stage for stage in found} | {"image": found[-1]}


def variables(stage, environment):
    """The environment after the ENV and ARG instructions of a stage."""
    environment = dict(environment)
    for name, arguments in stage.instructions:
        if name in ("ENV", "ARG"):
            for word in shlex.split(arguments):
                key, _, value = word.partition("=")
                if name == "ENV" or key not in environment:
                    environment[key] = re.sub(r"\$\{?(\w+)\}?", lambda m: environment.get(m[1], ""), value)
    return environment


def copied(arguments):
    """Sources and target of a COPY instruction, without options."""
    *sources, target = [word for word in arguments.split() if not word.startswith("--")]
    return sources, target


class Image:
    """A folder that takes the place of an image's file system.

    Args:
        packages: a folder of installed packages that pip may use; None makes pip download everything.
    """

    def __init__(self, folder, packages=None):
        self.folder, self.packages = Path(folder), packages
        self.stages = stages()
        self.source, self.environment = self.folder / "src", self.folder / "zoo"
        self.source.mkdir()
        self.environment.mkdir()

    def build(self):
        """Run the build stage. Raises CalledProcessError."""
        stage = self.stages["build"]
        base = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/tmp"), "TMPDIR": "/tmp"}
        base |= {key: value for key, value in os.environ.items() if key.startswith("PIP_") and key != "PIP_CONSTRAINT"}
        base |= {key: os.environ[key] for key in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if key in os.environ}
        environment = variables(stage, base)
        folder = stage.last("WORKDIR")
        for name, arguments in stage.instructions:
            if name == "COPY":
                self.copy(*copied(arguments))
            elif name == "RUN":
                writable = {folder: self.source, "/opt/zoo": self.environment}
                command = self.sandbox(["/bin/sh", "-c", arguments], environment, folder, writable, network=True)
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=580)
                if self.packages and "venv" in arguments:
                    (site,) = self.environment.glob("lib/python*/site-packages")
                    (site / "packages.pth").write_text(f"{self.packages}\n")

    def copy(self, sources, target):
        """COPY from the build context, as far as .dockerignore lets it through."""
        for source in sources:
            path = REPOSITORY / source
            place = self.source / target if target != "./" else self.source / source
            if path.is_dir():
                shutil.copytree(path, place, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
            else:
                shutil.copy(path, place)

    def sandbox(self, command, environment, folder, writable, user="0:0", network=False, read_only=()):
        """The command line that runs a command in the image's file system."""
        uid, gid = user.split(":")
        line = ["bwrap", "--unshare-user", "--uid", uid, "--gid", gid, "--unshare-pid", "--unshare-ipc", "--as-pid-1"]
        line += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
        for path in (*SYSTEM, *([self.packages] if self.packages else [])):
            if os.path.islink(path):
                line += ["--symlink", os.readlink(path), path]
            elif os.path.exists(path):
                line += ["--ro-bind", str(path), str(path)]
        if network:  # what pip needs: certificates, configuration and local packages of this machine
            extra = [*sorted(Path("/opt").iterdir()), Path(environment["HOME"]), Path("/run")]
            line += [word for path in extra if path.exists() for word in ("--ro-bind", str(path), str(path))]
        for place in ("/usr/local", sys.base_prefix):  # its own place too, where it looks for its library
            line += ["--ro-bind", sys.base_prefix, place]
        line += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        for target, path in writable.items():
            line += ["--bind", str(path), target]
        for target, path in read_only:
            line += ["--ro-bind", str(path), target]
        line += ["--remount-ro", "/"]
        for key, value in environment.items():
            line += ["--setenv", key, value]
        return [*line, "--chdir", folder, "--", *command]

    def run(self, command, mounts=(), **environment):
        """The command line that runs a command as a container of the image would: its user, its read-only root.

        Args:
            mounts: folders by their place in the image, such as {"/data": path}.
        """
        stage = self.stages["image"]
        base = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        read_only = [("/opt/zoo", self.environment), *dict(mounts).items()]
        if self.packages:
            read_only.append((str(self.packages), self.packages))
        return self.sandbox(
            command, variables(stage, base) | environment, stage.last("WORKDIR"), {}, stage.last("USER"),
            read_only=read_only,
        )  # fmt: skip

    @contextmanager
    def serving(self, log, mounts=(), arguments=None, **environment):
        """Start ENTRYPOINT and CMD, on 127.0.0.1 only.

        Yields the process, its address, and a function that runs the HEALTHCHECK and returns its exit code.

        Args:
            arguments: instead of CMD.
        """
        stage = self.stages["image"]
        start = [*json.loads(stage.last("ENTRYPOINT")), *(arguments or json.loads(stage.last("CMD")))]
        check = json.loads(stage.last("HEALTHCHECK").partition("CMD ")[2])
        port, health_port = free_port(), free_port()
        environment = {
            "ZOO_HOST": "127.0.0.1", "ZOO_PORT": str(port), "ZOO_HEALTH_PORT": str(health_port), "ZOO_API_KEY": KEY,
        } | environment  # fmt: skip

        def healthy():
            return subprocess.run(self.run(check, **environment), capture_output=True, timeout=30).returncode

        with open(log, "w") as file:
            process = subprocess.Popen(self.run(start, mounts, **environment), stdout=file, stderr=file)
        try:
            yield process, f"http://127.0.0.1:{port}", healthy
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(20)


def main():
    with tempfile.TemporaryDirectory() as folder:
        image = Image(folder)
        try:
            image.build()
        except subprocess.CalledProcessError as error:
            sys.exit(f"{shlex.join(error.cmd[-3:])}\n{error.stdout}\n{error.stderr}")
        size = sum(path.stat().st_size for path in image.environment.rglob("*") if not path.is_symlink())
        print(f"/opt/zoo has {size / 1e6:,.0f} MB")
        log = Path(folder, "log")
        with image.serving(log) as (process, url, healthy):
            seconds = wait_for(lambda: process.poll() is not None or healthy() == 0)
            print(log.read_text())
            assert process.poll() is None
            print(f"healthy at {url} after {seconds:.1f} s, health checks included")


if __name__ == "__main__":
    main()
