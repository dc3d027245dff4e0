"""GLAD on ELPV: solar cells, the data of the demo.

    python -m gladjax.experiments.elpv --output OUT --seeds 0 1 2

Fits on 300 functional monocrystalline cells, tests on 200 others and 313 defective ones
(``--cells poly``: polycrystalline cells, a texture). The images come with the package
``elpv-dataset``. Expected with EfficientNet-Lite0: image AUROC about 0.95; for
orientation, on the same split and features PaDiM has 0.949 and PatchCore 0.963.
"""

import argparse
from collections.abc import Sequence

import click

from gladjax import datasets
from gladjax.experiments import mvtec, rows, runner


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gladjax.experiments.elpv", description="GLAD on solar cells."
    )
    parser.add_argument("--cells", choices=("mono", "poly"), default="mono")
    runner.add_options(parser)
    options = parser.parse_args(arguments)
    with runner.errors():
        cells = datasets.elpv(category=options.cells, skip_bad=options.skip_bad)
        text = rows.write(options.output, mvtec.summary(runner.run([cells], options)))
    click.echo(text)


if __name__ == "__main__":
    main()
