"""Defaults of options from `zoo.toml`, or from `[tool.zoo]` in `pyproject.toml`.

The nearest such file is used, from the working folder upwards; in one folder `zoo.toml` comes first. The command line
wins over the environment, and that over the file. A downloaded folder may contain such a file, so it can only set the
options in `ALLOWED`: none of them names a file or a host, allows a download, or raises a limit of the decoders or of
the server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from zoo.errors import ModelNotFound, WrongUsage, printable, reason

ALLOWED = {  # command → options, as they are written on the command line without the dashes
    "predict": ("model", "format", "top-k", "fit", "single", "on-error", "max-errors", "workers", "device"),
    "inspect": ("model",),
    "list": ("json",),
    "info": ("json",),
    "verify": ("device", "json"),
    "evaluate": ("split", "device", "json"),
    "fit": ("arch", "size", "epochs", "minutes", "flip", "class-weights", "seed", "threads", "device"),
    "add": (
        "preset",
        "size",
        "mean",
        "std",
        "scale",
        "layout",
        "channels",
        "resize",
        "resize-size",
        "interpolation",
        "antialias",
        "form",
        "output",
    ),
    "bench": ("batch", "seconds", "device", "json"),
    "serve": ("port", "models", "workers", "demo", "device"),
    "doctor": ("json",),
}
SHARED = ("model", "device")  # may also stand at the top, for all commands that have them

LARGEST_FILE = 2**20  # bytes


@dataclass(frozen=True)
class Config:
    """The defaults of one file.

    Attributes:
        path: the file, or None if there is none.
        values: command → option (its name in Python) → value.
    """

    path: Path | None = None
    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def describe(self) -> str:
        """For `zoo doctor`: the file and what it sets."""
        if self.path is None:
            return "no zoo.toml, and no [tool.zoo] in pyproject.toml"
        options = [f"{command}.{name}" for command, values in self.values.items() for name in values]
        return f"{self.path} sets {', '.join(options) or 'nothing'}"


def load_config(folder: Path | None = None) -> Config:
    """The defaults of the nearest file, from a folder upwards.

    Args:
        folder: default: the working folder.
    Raises:
        WrongUsage: the file is malformed, or sets an option that it may not.
    """
    try:
        start = folder or Path.cwd()
    except OSError:  # the working folder was deleted
        return Config()
    for path in _candidates(start):
        table = _table(path)
        if table is not None:
            return Config(path, _checked(table, path))
    return Config()


def _candidates(start: Path) -> Iterator[Path]:
    for folder in (start, *start.parents):
        for name in ("zoo.toml", "pyproject.toml"):
            path = folder / name
            if os.path.isfile(path):
                yield path


def _table(path: Path) -> dict[str, Any] | None:
    """The settings in a file; None for a pyproject.toml without `[tool.zoo]`."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if path.name == "pyproject.toml" and b"tool.zoo" not in content:
            return None  # before tomllib is imported, because `zoo predict` must start fast
        if len(content) > LARGEST_FILE:
            raise WrongUsage(f"{path} has more than {LARGEST_FILE:,} bytes: it is not a file of settings.")
        import tomllib

        data = tomllib.loads(content.decode())
    except OSError as error:
        raise WrongUsage(f"{path} cannot be read ({reason(error)}): correct or remove it.") from None
    except (ValueError, RecursionError) as error:  # TOML or UTF-8
        raise WrongUsage(f"{path} is not valid TOML ({reason(error)}): correct or remove it.") from None
    if path.name == "zoo.toml":
        return data
    tool = data.get("tool")
    if not isinstance(tool, dict) or "zoo" not in tool:
        return None
    table = tool["zoo"]
    if not isinstance(table, dict):
        raise WrongUsage(f"[tool.zoo] in {path} is {table!r:.60}, not a table.")
    return table


def _checked(table: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Command → option → value. Raises WrongUsage for what a file may not set."""
    values: dict[str, dict[str, Any]] = {command: {} for command in ALLOWED}
    for key, value in table.items():
        if key in SHARED:
            for command, options in ALLOWED.items():
                if key in options:
                    values[command][key] = _value(key, value, path)
        elif key not in ALLOWED or not isinstance(value, dict):
            known = ", ".join([*SHARED, *(f"[{command}]" for command in ALLOWED)])
            raise WrongUsage(f"{path} sets {printable(key[:60])!r}, which is unknown. It may set: {known}.")
    for command in ALLOWED:
        for key, value in table.get(command, {}).items():
            if key not in ALLOWED[command]:
                raise WrongUsage(
                    f"{path} sets {printable(key[:60])!r} of `zoo {command}`, which a file may not set. It may set: "
                    f"{', '.join(ALLOWED[command])}."
                )
            values[command][key] = _value(key, value, path)
    return {command: options for command, options in values.items() if options}


def _value(key: str, value: Any, path: Path) -> Any:
    """A scalar; a list of numbers as text with commas. Models are named, so that a file cannot choose another file."""
    if isinstance(value, list) and all(type(number) in (int, float) for number in value):
        return ",".join(map(str, value))
    if not isinstance(value, (str, bool, int, float)):
        raise WrongUsage(f"{path} sets {key} to {value!r:.60}: use a word, a number, or true or false.")
    if key == "model":
        from zoo import registry

        try:
            registry.find(str(value))
        except ModelNotFound as error:
            raise WrongUsage(
                f"{path} sets model to {value!r:.60}, but a file may only name a model of the zoo: {error}"
            ) from None
    return value


def apply(config: Config, context: click.Context, command: click.Command) -> None:
    """Make a file's values the defaults of a command that runs under `context`.

    Raises:
        WrongUsage: a value that the option does not take.
    """
    defaults = {}
    for key, value in config.values.get(command.name or "", {}).items():
        option = next((item for item in command.params if f"--{key}" in item.opts), None)
        if not isinstance(option, click.Option) or option.name is None:
            raise WrongUsage(f"{config.path} sets {key}, but `zoo {command.name}` has no option --{key}.")
        try:
            if option.is_flag != isinstance(value, bool):
                raise click.BadParameter("Use true or false." if option.is_flag else "Use a word or a number.")
            option.type.convert(value, option, context)
            if option.callback is not None:
                option.callback(context, option, value)
        except click.BadParameter as error:
            raise WrongUsage(
                f"{config.path} sets {key} of `zoo {command.name}` to {value!r:.60}. {error.message}"
            ) from None
        defaults[option.name] = value
    context.default_map = {**(context.default_map or {}), command.name or "": defaults}
