"""The command ``gladjax``: fit, update, score, evaluate, export, weights, demo.

A thin layer: each command reads its arguments, calls the package and prints. Results go
to standard output, progress and complaints to standard error. Files appear whole or not
at all, also when a command is interrupted.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but images were bad; 130
interrupted (Ctrl-C); 143 terminated.
"""

import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

import click

from gladjax import cache
from gladjax.cli import interruption
from gladjax.cli.saying import say
from gladjax.outputs import printable

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143

EPILOG = """\b
Examples:
  gladjax demo
  gladjax fit good/ --out model.safetensors
  gladjax score model.safetensors new/*.png --heatmaps maps
  gladjax evaluate model.safetensors elpv --report report.html

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some images were bad,
130 interrupted, 143 terminated."""


COMMANDS = {  # The module of each, and what it does in short.
    "demo": ("demonstration", "Fit GLAD on normal solar cells, and score others."),
    "fit": ("fitting", "Learn from IMAGES of good products, and write a model."),
    "update": ("updating", "Teach a MODEL that kept its statistics further IMAGES."),
    "score": ("scoring", "Score IMAGES with a MODEL that `gladjax fit` wrote."),
    "evaluate": ("evaluation", "Measure a MODEL on the test images of DATASET."),
    "report": ("evaluation", "Write a page about a MODEL, or about its evaluation."),
    "export": ("exporting", "Write a MODEL as one program, without gladjax."),
    "weights": ("weighing", "List, fetch and convert the weights of networks."),
    "cache": ("caching", "Show or clear what is kept between runs."),
}


class Lazy(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns a command, None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        cache.keep_programs()  # Before the command imports JAX.
        module = importlib.import_module(f"gladjax.cli.{COMMANDS[cmd_name][0]}")
        return getattr(module, cmd_name)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Writes what the commands do, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in COMMANDS.items()])


@click.group(
    cls=Lazy, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="gladjax")
def cli() -> None:
    """Learn what good products look like, and find the ones that are not.

    GLAD fits Gaussian mixtures with local weights to features of a frozen network; a
    few dozen photographs of good products are enough. Begin with `gladjax demo`.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line, and exits.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: Always, with one of the codes above.
    """
    interruption.install()
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # No name ends the output.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _code(arguments)
    except SystemExit as end:
        code = end.code
    _flush()
    code = interruption.code() or code
    sys.exit(code if isinstance(code, int) else 0)


def run() -> None:
    """Runs the process's own command line, and ends the process there and then.

    Nothing is half-written any more. To take down the interpreter and JAX takes half a
    second, and under threads that compute it would end the process by a signal.
    """
    try:
        main()
    except SystemExit as end:
        os._exit(int(end.code or 0))


def _code(arguments: Sequence[str] | None) -> object:
    """Runs the command line, and returns the exit code; says what went wrong."""
    try:
        return cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="gladjax",
            standalone_mode=False,
        )
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        vars(error)["message"] = printable(error.message)
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # The reader of our output has left; nothing to say.
        return FAILED
    except Exception as error:
        code = _interruption(error)
        if code is not None:
            return code
        known = isinstance(error, ValueError | OSError)
        reason = str(error) if known else _no_device()
        if not reason:
            raise
        say(f"error: {reason}", err=True)
        return FAILED


def _no_device() -> str:
    """Returns why JAX has no device, empty if it has one."""
    import jax

    try:
        jax.devices()
    except Exception as error:
        reason = str(error) or "it is not there"
        asked = os.environ.get("JAX_PLATFORMS", "")
        return f"JAX has no device: JAX_PLATFORMS is {asked!r}, {reason}"
    return ""


def _flush() -> None:
    """Gives up output that nobody takes, rather than fail again at the exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def _interruption(error: BaseException) -> int | None:
    """Returns the exit code of an interruption that is behind an error, or None.

    A signal that arrives while a library runs Python from compiled code comes out as
    that library's error.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            say("interrupted", err=True)
            return INTERRUPTED
        if isinstance(cause, SystemExit):
            return TERMINATED
        cause = cause.__cause__ or cause.__context__
    return None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    *_: object,
    **__: object,
) -> None:
    if "persistent compilation cache" in str(message):
        cache.clear_programs()  # A run that was killed left one half-written.
        return
    say(f"warning: {message}", err=True)
