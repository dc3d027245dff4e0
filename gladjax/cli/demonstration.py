"""The command ``gladjax demo``: the main job on solar cells, with one word."""

import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from gladjax import backbone, calibrate, datasets, outputs, programs
from gladjax.cli import evaluation, options
from gladjax.cli.saying import say
from gladjax.detector import FOLDS, Settings
from gladjax.experiments import runner
from gladjax.experiments.evaluation import Evaluation

RATE = 0.05


@click.command()
@options.out(
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("gladjax-demo"),
    show_default=True,
    help="Folder for results.json, pictures and the report.",
)
@click.option(
    "--num-components",
    type=click.IntRange(0),
    default=Settings.num_components,
    help="Components to start from, per layer; 0, the default, for one for every 256 "
    "features.",
)
@click.option(
    "--max-samples",
    type=click.IntRange(0),
    default=Settings.max_samples,
    show_default=True,
    help="Features per layer that the mixture is fitted to; 0 for all.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@options.force
@programs.as_last_time("demo")
def demo(
    out: Path, num_components: int, max_samples: int, seed: int, force: bool
) -> None:
    """Fit GLAD on 300 normal solar cells, and score 513 others.

    Nothing is downloaded: network and images come with `pip install "gladjax[demo]"`.
    The images (elpv-dataset) are CC BY-NC-SA 4.0, not for commercial use.
    """
    begun = time.perf_counter()
    page, results = out / "report.html", out / "results.json"
    wanted = [(results, outputs.RESULTS), (page, outputs.PAGE)]
    outputs.check_all(wanted, force=force)
    cells = datasets.elpv()
    network = backbone.load("efficientnet_lite0")
    settings = Settings(num_components=num_components, max_samples=max_samples)
    say(
        f"ELPV (CC BY-NC-SA 4.0): {len(cells.train)} normal cells to learn from, "
        f"{len(cells.test)} to test; {network.name}"
    )
    record, fitted, result = runner.glad(
        cells,
        network,
        seed=seed,
        settings=settings,
        pictures=out / "pictures",
        folds=FOLDS,
    )
    limit = calibrate.threshold(np.asarray(fitted.calibration), RATE)
    record["seconds"] = time.perf_counter() - begun
    runner.save_records(out, [record])
    found: dict[str, Any] = {"record": record, "dataset": cells, "fitted": fitted}
    evaluation.write_page(page, {**found, "result": result, "threshold": limit})
    _tell(out, record, result, limit)


def _tell(
    output: Path, record: dict[str, Any], result: Evaluation, limit: float | None
) -> None:
    say(f"image AUROC: {record['image_auroc']:.4f}")
    for name, kept in record["num_components"].items():
        active = record["active_per_position"][name]
        say(f"  {name}: {kept} components kept, {active:.1f} active per position")
    stages = record["fit_stages"].items()
    say("fit: " + ", ".join(f"{name} {value:.1f} s" for name, value in stages))
    per_image = record["seconds_per_image"].items()
    say("per image: " + ", ".join(f"{name} {1000 * v:.1f} ms" for name, v in per_image))
    normal, bad = (np.median(result.scores[result.labels == label]) for label in (0, 1))
    say(f"median score: normal {normal:.1f}, defective {bad:.1f}")
    if limit is not None:
        above = result.scores > limit
        normal, bad = (np.mean(above[result.labels == label]) for label in (0, 1))
        say(
            f"threshold {limit:.1f}, from normal cells alone, for {RATE:.0%} false "
            f"positives: {normal:.1%} of the normal cells are above it and {bad:.1%} "
            "of the defective ones"
        )
    say(f"{record['seconds']:.0f} s in all; see {output}/")
