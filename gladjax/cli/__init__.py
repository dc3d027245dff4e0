"""The command ``gladjax``: fit, update, score, evaluate, report, weights, demo.

A thin layer: each command reads its arguments, calls the package and prints. Results go
to standard output, progress and complaints to standard error. Files appear whole or not
at all, also when a command is interrupted.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but images were bad; 130
interrupted (Ctrl-C); 143 terminated.
"""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Sequence

import click
import jax

from gladjax.cli import interruption
from gladjax.cli.demonstration import demo
from gladjax.cli.evaluation import evaluate, report
from gladjax.cli.fitting import fit
from gladjax.cli.options import say
from gladjax.cli.scoring import score
from gladjax.cli.updating import update
from gladjax.cli.weighing import weights
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


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gladjax")
def cli() -> None:
    """Learn what good products look like, and find the ones that are not.

    GLAD fits Gaussian mixtures with local weights to features of a frozen network; a
    few dozen photographs of good products are enough. Begin with `gladjax demo`.
    """


for command in (demo, fit, update, score, evaluate, report, weights):
    cli.add_command(command)


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
    sys.exit(interruption.code() or (code if isinstance(code, int) else 0))


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
    say(f"warning: {message}", err=True)
