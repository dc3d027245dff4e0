"""The command ``gladjax cache``: what is kept between runs."""

import click

from gladjax import cache as kept
from gladjax.cli.saying import say


@click.command()
@click.option("--clear", is_flag=True, help="Remove the compiled programs.")
def cache(clear: bool) -> None:
    """Show or clear what is kept between runs.

    Compiled programs make the second run of a command start faster than the first;
    fetched weights of networks lie beside them and are never removed. The folder is
    $GLADJAX_CACHE, or ~/.cache/gladjax.
    """
    if clear:
        say(f"removed {kept.clear_programs() / 1e6:.1f} MB of compiled programs")
    place = kept.folder()
    say(f"cache: {place}")
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        files = [p for p in [path, *path.rglob("*")] if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        say(f"  {path.name}: {len(files)} files, {size / 1e6:.1f} MB")
