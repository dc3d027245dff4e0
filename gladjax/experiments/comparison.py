"""GLAD and the other systems of the paper's tables, on the same features.

    python -m gladjax.experiments.comparison --data-root DIR \
        --categories transistor toothbrush screw --seeds 0 1 2 --output OUT

Every method of `gladjax.baselines` gets the feature maps that GLAD gets (DRAEM the
images), the same split and the same metrics; a method without randomness is run once.
The paper's figures (Tables 2 and 6) stand beside ours; they are on other backbones,
which the table names. Writes ``results.json``, ``table.md`` and ``table.csv``.
Expected: GLAD first or within a point of the best on transistor and toothbrush; the
five methods of the default take a few minutes per category on a core.

Notation: none.

``glad`` has the settings of the command line, the paper's by default; ``glad, default``
those of `gladjax fit`, whatever else is asked for.

Differs from the reference in: (1) one backbone for all; (2) a coreset of ``--coreset``
for PatchCore where its row does not name another share, and few steps for what is
trained, see ``settings`` in the results.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, Tables 2 and 6.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from gladjax.detector import Settings
from gladjax.experiments import paper, peers, rows, runner, stages, study
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Source
from gladjax.experiments.study import Case

AS_FIT = "glad, default"
"""The row whose settings are those of `gladjax fit`, not those of the command line."""
METHODS = ("glad", *peers.METHODS)
DEFAULT = METHODS[:5]
FIXED = ("mahaad", "spade")
"""Methods without randomness, run with one seed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("comparison", "All methods on the same features.")
    add_options(parser, methods=(AS_FIT, *METHODS, *peers.OTHERS))
    options = parser.parse_args(arguments)
    study.run(options, visit, table)


def add_options(
    parser: argparse.ArgumentParser,
    *,
    methods: Sequence[str] = METHODS,
    default: Sequence[str] = DEFAULT,
) -> None:
    """Adds the options of the other methods.

    Args:
      parser: The parser.
      methods: Those to choose from.
      default: Those run by default.
    """
    add = parser.add_argument
    add("--methods", nargs="+", choices=methods, default=list(default))
    add("--padim-dims", type=int, default=100, help="dimensions that PaDiM keeps")
    add("--coreset", type=float, default=0.01, help="share that PatchCore keeps")
    add("--train-steps", type=int, default=500, help="steps of cflow, csflow, draem")


def visit(case: Case) -> None:
    """Runs every method and seed on a data set.

    Args:
      case: The data set, and the options of `add_options`.
    """
    options = case.options
    asked = runner.settings(options)
    default = Settings(motion=options.motion, coarse=options.coarse)
    for group in (True, False):  # Their features are of other layers.
        methods = [name for name in options.methods if (name == AS_FIT) is group]
        if not methods:
            continue
        chosen = default if group else asked
        source = rows.features(options, case.dataset, case.net, chosen=chosen)
        for method in methods:
            for seed in options.seeds[:1] if method in FIXED else options.seeds:
                compare(case, source, method, seed)


def compare(
    case: Case,
    source: Source,
    method: str,
    seed: int,
    *,
    masks: np.ndarray | None = None,
    name: str = "",
) -> Record:
    """Returns the record of a method and seed, computed if it is not there.

    Args:
      case: The data set.
      source: Its features.
      method: One of `METHODS`, of `peers.OTHERS`, or `AS_FIT`.
      seed: Its randomness.
      masks: Anomalous pixels, if they are not those of the data set.
      name: What the row is called, if not as the method.
    """
    dataset, version = case.dataset, source.described["prepared"]
    recipe = stages.Recipe(source.blank.settings, seed)
    if method in ("glad", AS_FIT):
        chosen = rows.described(recipe, local=True, layers=source.blank.backbone.layers)
    else:
        chosen = peers.choices(case.options, method)
    if version:
        chosen |= {"version": version}

    def make() -> Record:
        if method in ("glad", AS_FIT):
            return rows.glad(source, dataset, recipe, masks=masks).record
        row = (method, seed)
        return peers.run(source, dataset, row, options=chosen, masks=masks)

    return study.row(case, name or method, seed, chosen, make)


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category and method, the paper's figures beside.

    Args:
      records: The rows of all categories, methods and seeds.
    """
    ours = records[0]["backbone"] if records else "-"
    head = ["category", "method", "seeds", f"image AUROC ({ours})", "paper"]
    head += [f"pixel AUROC ({ours})", "paper", "AU-PRO", "fit s", "score ms", "MB"]
    out = [head]
    categories = list(dict.fromkeys(record["category"] for record in records))
    for category in [*categories, "mean"]:
        for method in dict.fromkeys(record["method"] for record in records):
            own = [r for r in records if r["method"] == method]
            if category != "mean":
                own = [r for r in own if r["category"] == category]
            elif {r["category"] for r in own} != set(categories):
                own = []
            if own:
                out.append([category, method, *_cells(own, category)])
    return out


def _cells(own: Sequence[Record], category: str) -> list[str]:
    method = own[0]["method"]
    known = own[0]["data"] == "mvtec" and category != "mean"
    score = [record["seconds_per_image"]["score"] for record in own]
    size = rows.mean(record["model_bytes"] for record in own) or 0.0
    names = ("image_auroc", "pixel_auroc", "aupro")
    cells = {
        name: rows.cell(r[name] for r in own)
        if category != "mean"
        else runner.percent(rows.balanced(own, name))
        for name in names
    }
    return [
        " ".join(str(s) for s in sorted({record["seed"] for record in own})),
        cells["image_auroc"],
        _printed(method, category) if known else "-",
        cells["pixel_auroc"],
        _printed_pixel(method, category) if known else "-",
        cells["aupro"],
        f"{rows.mean(record['fit_seconds'] for record in own):.1f}",
        f"{1000 * float(np.mean(score)):.1f}",
        f"{size / 1e6:.2f}",
    ]


def _printed(method: str, category: str) -> str:
    """Returns the paper's image AUROC and its backbone."""
    try:
        value = paper.image_auroc(method, category)
    except ValueError:
        return "-"
    where = PRINTED_ON.get(method, "own")
    return "-" if value is None else f"{runner.percent(value)} ({where})"


PRINTED_ON = {
    "padim": "wide_resnet50_2",
    "glad": "wide_resnet50_2",
    "cflow": "wide_resnet50_2",
    "mahaad": "efficientnet",
}


def _printed_pixel(method: str, category: str) -> str:
    try:
        value = paper.pixel_auroc(method, category)
    except ValueError:
        return "-"
    return runner.percent(value)


if __name__ == "__main__":
    main()
