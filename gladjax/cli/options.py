"""Options and progress that several commands share."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import click
import tqdm

from gladjax import backbone, images
from gladjax.backbone import Backbone
from gladjax.cli import interruption

F = TypeVar("F", bound=Callable[..., Any])

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
PLACE = click.Path(path_type=Path)
RATE = click.FloatRange(1e-12, 1, max_open=True)


def standard_output() -> None:
    """Refuses to begin work whose answers nobody could get.

    Raises:
      OSError: If standard output is closed.
    """
    if sys.stdout is None:
        raise OSError("standard output is closed")


class _Out(click.Option):
    """An option ``--out`` that answers to ``--output`` too, which no help names."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:  # noqa: ANN401
        """Adds both names."""
        super().add_to_parser(parser, ctx)
        parser.add_option(obj=self, opts=["--output"], dest=self.name)


def out(**attributes: Any) -> Callable[[F], F]:  # noqa: ANN401
    """Returns what adds the option that says where a command writes.

    Args:
      attributes: Those of any option.
    """
    return click.option("--out", cls=_Out, **attributes)


def force(function: F) -> F:
    """Adds the option that lets a command replace any file, see `gladjax.outputs`."""
    return click.option(
        "--force",
        is_flag=True,
        help="Replace files that gladjax did not write, or that are of another kind.",
    )(function)


def max_pixels(function: F) -> F:
    """Adds the option that changes the largest image that is decoded."""

    def limit(context: click.Context, _: click.Parameter, value: int | None) -> None:
        context.with_resource(images.pixel_limit(value))

    return click.option(
        "--max-pixels",
        type=click.IntRange(1),
        expose_value=False,
        callback=limit,
        help=f"Largest width times height of an image; {images.MAX_PIXELS} by default.",
    )(function)


def network(function: F) -> F:
    """Adds the options that choose a backbone."""
    named = click.option(
        "--backbone",
        "backbone_name",
        default="efficientnet_lite0",
        show_default=True,
        help="Name of the network; `gladjax weights list` shows them.",
    )
    checkpoint = click.option(
        "--checkpoint",
        type=EXISTING,
        help="File with the network's weights, instead of the installed one.",
    )
    return named(checkpoint(function))


def weights_file(function: F) -> F:
    """Adds the option that says where the weights of a model's backbone are."""
    return click.option(
        "--checkpoint",
        type=EXISTING,
        help="File with the weights of the model's backbone.",
    )(function)


def saved_network(
    description: dict[str, Any], checkpoint: Path | None
) -> Backbone | None:
    """Returns the backbone of a model from a file, or None for the installed one.

    Args:
      description: What the model says of its backbone.
      checkpoint: The file.
    """
    if checkpoint is None:
        return None
    size = tuple(description["image_size"])
    return backbone.load(
        description["name"],
        checkpoint=checkpoint,
        image_size=size,
        sha256=description["sha256"],
    )


def calibrated_rate(function: F) -> F:
    """Adds the option that overrides the false-positive rate of a model."""
    return click.option(
        "--false-positive-rate",
        "rate",
        type=RATE,
        help="Share of normal images that may be called anomalous; the model's own by "
        "default.",
    )(function)


class Progress:
    """Bars on standard error, one for each stage."""

    def __init__(self, *, quiet: bool = False, note: str = "") -> None:
        """Shows nothing yet.

        Args:
          quiet: Whether to show nothing at all.
          note: Words in front of every stage.
        """
        self.note = note
        self._quiet, self._stage = quiet, ""
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the last bar."""
        self._close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows how far a stage is.

        Args:
          stage: Its name; another name begins another bar.
          done: What is done.
          total: Of how much.

        Raises:
          KeyboardInterrupt: If an interrupt has come and was lost.
          SystemExit: If a termination has come and was lost.
        """
        interruption.check()
        name = f"{self.note}{stage}"
        if self._bar is None or name != self._stage:
            self._close()
            self._stage = name
            self._bar = tqdm.tqdm(
                total=total, desc=name, disable=self._quiet or None, leave=False
            )
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
