"""How local should weights be? Few training images, and a prior around the global ones.

    python -m gladjax.experiments.locality --data-root DIR \
        --categories transistor toothbrush screw --output OUT

Local weights are counts, and with few images they are noise. For 10, 30, 100 and all
training images, a model of four fifths of them is fitted with global weights, with
local ones, and with a Dirichlet prior of several strengths (and radii) between the two.
The pair of strength and radius under which the held-out fifth is likeliest is chosen,
for each category and number of images; no label takes part. The table shows what the
choice gives on the test images, beside local and global weights. Expected: a prior
chosen everywhere, gains with 10 images, none with all.

Notation: ``a`` the strength, in samples; infinite for global weights.

Differs from the reference in: (1) the paper has no prior.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 3.2.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from gladjax.experiments import (
    held_out,
    rows,
    runner,
    sources,
    stages,
    study,
)
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Source
from gladjax.experiments.study import Case

LOCAL, GLOBAL, PRIOR = "local", "global", "prior"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("locality", "How local should weights be?")
    add = parser.add_argument
    add("--numbers", nargs="+", type=int, default=[10, 30, 100, 0], help="images")
    add("--strengths", nargs="+", type=float, default=[1.0, 10.0, 100.0])
    add("--radii", nargs="+", type=float, default=[1.0, 2.0])
    options = parser.parse_args(arguments)
    study.run(options, _rows, table, notes=lambda r: "; ".join(verdict(r)))


def _rows(case: Case) -> None:
    source = rows.features(case.options, case.dataset, case.net)
    for seed in case.options.seeds:
        for number in case.options.numbers:
            if number < len(case.dataset.train):
                _choices(case, source, seed, number)


def _choices(case: Case, source: Source, seed: int, number: int) -> None:
    """Computes the rows of one seed and number of images, 0 for all."""
    count = len(case.dataset.train)
    order = np.random.default_rng(seed).permutation(count)
    pool = np.sort(order[: number or count])
    learn, held = (pool[part] for part in held_out.split(len(pool), seed=seed))
    name = f"locality {number} {seed}"
    part = sources.subset(source, learn, test="test", name=name)
    rest = sources.subset(source, learn, test="rest", name=name)
    kept = np.searchsorted(np.setdiff1d(np.arange(count), learn), held)
    rest = rest._replace(
        test={layer: value[kept] for layer, value in rest.test.items()},
        aligned=[rest.aligned[i] for i in kept],
    )
    for method, recipe, local in _variants(case.options, seed):
        settings = rows.described(recipe, local=local, layers=case.net.layers)

        def make(recipe=recipe, local=local) -> Record:  # noqa: ANN001
            record = rows.glad(part, case.dataset, recipe, local=local).record
            fitted = {
                layer: stages.fit_layer(rest, layer, recipe, local=local, test="rest")
                for layer in case.net.layers
            }
            return {**record, "held_out": held_out.likelihood(rest, fitted)}

        chosen = {**settings, "images": number or count}
        study.row(case, method, seed, chosen, make)


def _variants(
    options: argparse.Namespace, seed: int
) -> Iterator[tuple[str, stages.Recipe, bool]]:
    settings = runner.settings(options)
    yield GLOBAL, stages.Recipe(settings, seed), False
    for radius in options.radii:
        wide = dataclasses.replace(settings, radius=radius)
        yield LOCAL, stages.Recipe(wide, seed), True
        for strength in options.strengths:
            shrunk = dataclasses.replace(wide, prior=strength)
            yield PRIOR, stages.Recipe(shrunk, seed), True


def chosen(records: Sequence[Record]) -> dict[tuple[str, int, int], Record]:
    """Returns the row of the best held-out likelihood among local weights.

    Args:
      records: The rows; their AUROCs are not looked at.

    Returns:
      By category, number of images and seed.
    """
    best: dict[tuple[str, int, int], Record] = {}
    for record in records:
        at = _place(record)
        if record["method"] == GLOBAL:
            continue
        if at not in best or record["held_out"] > best[at]["held_out"]:
            best[at] = record
    return best


def _place(record: Record) -> tuple[str, int, int]:
    return record["category"], record["settings"]["images"], record["seed"]


def _plain(records: Sequence[Record], method: str) -> dict[tuple, Record]:
    """Returns the rows of global weights, or of local ones at the paper's radius."""
    return {
        _place(record): record
        for record in records
        if record["method"] == method
        and (method == GLOBAL or record["settings"]["radius"] == 1.0)
    }


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category, number of images and seed.

    Args:
      records: All rows.
    """
    head = ["category", "images", "seed", "global", "local, r = 1", "chosen"]
    head += ["strength", "radius", "nats / cell: global", "local", "chosen", "score ms"]
    out = [head]
    far, near = _plain(records, GLOBAL), _plain(records, LOCAL)
    for at, best in chosen(records).items():
        three = [found.get(at) for found in (far, near)] + [best]
        aurocs = [runner.percent(r["image_auroc"]) if r else "-" for r in three]
        likely = [f"{r['held_out']:.2f}" if r else "-" for r in three]
        strength = f"{best['settings'].get('prior', 0):g}"
        radius = f"{best['settings']['radius']:g}"
        times = [1000 * r["seconds_per_image"]["score"] for r in three if r]
        score = "/".join(f"{t:.0f}" for t in times)
        name, images, seed = at
        cells = [name, str(images), str(seed), *aurocs, strength, radius]
        out.append([*cells, *likely, score])
    return out


def verdict(records: Sequence[Record]) -> list[str]:
    """Says whether the chosen prior is never worse by 0.2 point, and helps somewhere.

    Args:
      records: All rows.
    """
    near = _plain(records, LOCAL)
    gains = [
        100 * (best["image_auroc"] - near[at]["image_auroc"])
        for at, best in chosen(records).items()
        if at in near
    ]
    if not gains:
        return []
    return [
        f"chosen minus local, r = 1: {min(gains):+.2f} to {max(gains):+.2f} points",
        f"worse by more than 0.2 point: {'yes' if min(gains) < -0.2 else 'no'}",
        f"better by more than 0.2 point somewhere: "
        f"{'yes' if max(gains) > 0.2 else 'no'}",
    ]


if __name__ == "__main__":
    main()
