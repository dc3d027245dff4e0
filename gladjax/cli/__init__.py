"""The command ``gladjax``: fit, update, score, evaluate, report, weights, demo.

A thin layer: each command reads its arguments, calls the package and prints. Results go
to standard output, progress and complaints to standard error. Files appear whole or not
at all, also when a command is interrupted.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but images were bad; 130
interrupted (Ctrl-C); 143 terminated.
"""

import signal
import sys
import warnings
from collections.abc import Sequence
from types import FrameType

import click

from gladjax.cli.demonstration import demo
from gladjax.cli.evaluation import evaluate, report
from gladjax.cli.fitting import fit
from gladjax.cli.scoring import score
from gladjax.cli.updating import update
from gladjax.cli.weighing import weights

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143

EPILOG = """\b
Examples:
  gladjax demo
  gladjax fit good/ --out model.safetensors
  gladjax score model.safetensors new/*.png --heatmaps maps
  gladjax evaluate model.safetensors elpv --report report.html

\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some images were bad,
130 interrupted."""


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
    signal.signal(signal.SIGTERM, _terminate)
    warnings.showwarning = _show_warning
    try:
        code = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="gladjax",
            standalone_mode=False,
        )
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # The reader of our output has left; nothing to say.
        code = FAILED
    except (ValueError, OSError, SystemError) as error:
        code = _interruption(error)
        if code is None and isinstance(error, SystemError):
            raise
        if code is None:
            click.echo(f"error: {error}", err=True)
            code = FAILED
    sys.exit(code if isinstance(code, int) else 0)


def _interruption(error: BaseException) -> int | None:
    """Returns the exit code of an interruption that is behind an error, or None.

    A signal that arrives while a library runs Python from compiled code comes out as
    that library's error.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            return INTERRUPTED
        if isinstance(cause, SystemExit):
            return TERMINATED
        cause = cause.__cause__ or cause.__context__
    return None


def _terminate(number: int, frame: FrameType | None) -> None:
    """Turns a termination into an exception, so that half-written files are removed."""
    raise SystemExit(TERMINATED)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    *_: object,
    **__: object,
) -> None:
    click.echo(f"warning: {message}", err=True)
