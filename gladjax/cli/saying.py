"""What commands print."""

import click

from gladjax.outputs import printable


def say(text: str, *, err: bool = False) -> None:
    """Prints one line, whatever the names in it are made of.

    Args:
      text: The line.
      err: Whether it goes to standard error.
    """
    click.echo(printable(text), err=err)
