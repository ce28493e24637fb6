"""The `zoo` command: each subcommand parses its options, calls the library once and prints the result.

Results go to stdout, everything else to stderr. Exit codes:

    0    success
    1    an image failed, or a check of `zoo verify` failed
    2    wrong usage, or no images to classify
    3    model, runtime or device not available; `zoo doctor` found a problem
    130  interrupted by Ctrl-C
    143  terminated by SIGTERM
"""

import io
import os
import sys
from importlib import import_module

import click

import zoo
from serve.cli.completion import COMPLETION_VARIABLE, run_shell_completion
from serve.cli.config import apply, load_config
from serve.messages import say
from zoo.errors import ZooError, printable, reason

# Where each command is defined. Only the module of the command that runs is imported, because `zoo predict` must start
# fast; help imports them all.
COMMANDS = {
    "predict": "serve.cli.predict:command",
    "inspect": "serve.cli.inspect:inspect",
    "list": "serve.cli.models:list_command",
    "info": "serve.cli.models:info",
    "verify": "serve.cli.models:verify",
    "bench": "serve.cli.bench:bench",
    "add": "serve.cli.add:add_command",
    "remove": "serve.cli.add:remove_command",
    "pull": "serve.cli.hub:pull",
    "push": "serve.cli.hub:push",
    "export": "serve.cli.export:command",
    "serve": "serve.cli.serve:command",
    "fit": "serve.cli.fit:fit",
    "evaluate": "serve.cli.evaluate:evaluate",
    "doctor": "serve.cli.doctor:doctor",
    "completion": "serve.cli.completion:completion",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is needed, and lists the commands in the order of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(zoo.__version__, "-V", "--version", prog_name="zoo")
@click.option(
    "--no-config",
    is_flag=True,
    envvar="ZOO_NO_CONFIG",
    help="Ignore zoo.toml and [tool.zoo] in pyproject.toml.  [env var: ZOO_NO_CONFIG]",
)
@click.pass_context
def cli(context: click.Context, no_config: bool) -> None:
    """Small image classifiers for digits and photos.

    Classify images, list the models and check them, or serve them over HTTP.
    """
    name = context.invoked_subcommand
    command = cli.get_command(context, name) if name is not None else None
    if command is not None and not no_config:
        apply(load_config(), context, command)
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False


def main() -> None:
    """Run the command and exit with its code; every expected failure prints one line on stderr, without a traceback."""
    # A closed stdout or stderr is replaced so that no file opened later gets its descriptor. Writing to stdout fails.
    sys.stdout = sys.stdout or open(os.devnull)
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):  # UTF-8 in files, the terminal's encoding elsewhere; escapes as needed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        sys.exit(run_shell_completion(instruction))
    try:
        with cli.make_context("zoo", sys.argv[1:]) as context:
            cli.invoke(context)
        code = 0
    except click.exceptions.Exit as exit_:  # raised by --help and --version
        code = exit_.exit_code
    except click.ClickException as error:
        message = io.StringIO()
        error.show(message)
        for line in message.getvalue().rstrip("\n").split("\n"):
            say(line)
        code = error.exit_code
    except ZooError as error:
        say(f"zoo: {printable(str(error))}")
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:  # the reader has closed the pipe, for example `head`: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except MemoryError:
        say("zoo: Out of memory. Use a smaller model, or fewer or smaller images.")
        code = 1
    except OSError as error:
        if error.filename is None:  # a stream: stdout
            say(f"zoo: Cannot write the output ({reason(error)}).")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            say(f"zoo: Cannot open or write a file ({reason(error)}).")
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
