"""At which scales should layers be seen? Chosen on pasted defects, shown on real ones.

    python -m gladjax.experiments.neighbourhoods --data-root DIR \
        --categories transistor toothbrush screw --seeds 0 1 2 --output OUT

A rule is a choice of layers and of their means over 3 x 3 cells
(`gladjax.neighbourhoods`). Every rule is scored twice: fitted to four fifths of the
training images it tells held-out ones from copies with a pasted defect, four recipes
(`gladjax.experiments.held_out`); fitted to all of them it scores the test images.
Pasted defects may mislead, so the notes say how well each recipe ranks rules: over all
categories but one, whose real defects are compared with the pasted ones of the others.
Expected: the coarsest layer at two scales gains a point in the mean of both, most on
textures, and no recipe but the cut of another image says otherwise.

Notation: ``@3`` means over 3 x 3 cells.

Differs from the reference in: (1) the paper has one scale per layer.

Reference: Artola, Kolodziej, Morel, Ehret. "GLAD". WACV 2023, section 3.3.
"""

from collections.abc import Sequence

import numpy as np

from gladjax import neighbourhoods
from gladjax.backbone import Backbone
from gladjax.experiments import held_out, rows, runner, stages, study
from gladjax.experiments.held_out import SHOWN
from gladjax.experiments.runner import Record
from gladjax.experiments.sources import Source
from gladjax.experiments.study import Case

SIDE = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study.

    Args:
      arguments: The command line; the process's own by default.

    Raises:
      SystemExit: With a message, if the data or the options do not fit.
    """
    parser = rows.parser("neighbourhoods", "At which scales should layers be seen?")
    parser.set_defaults(paper=False)  # What `gladjax fit` takes, and as fast.
    options = parser.parse_args(arguments)
    study.run(options, _visit, table, notes=lambda records: "\n".join(notes(records)))


def rules(network: Backbone) -> dict[str, list[str]]:
    """Returns the layers of every rule, the paper's first.

    Args:
      network: The network, of three layers or two.
    """
    own = list(network.layers)
    wide = [f"{name}@{SIDE}" for name in own]
    found = {
        "layers": own,
        "coarsest twice": [*own, wide[-1]],
        "all but the finest twice": [*own, *wide[1:]],
        "without the finest": own[1:],
        "without the finest, coarsest twice": [*own[1:], wide[-1]],
        "coarsest wide": [*own[:-1], wide[-1]],
    }
    return found | {f"{name} alone": [name] for name in [*own, wide[-1]]}


def _visit(case: Case) -> None:
    wide = [f"{name}@{SIDE}" for name in case.net.layers[1:]]
    full = neighbourhoods.select(case.net, [*case.net.layers, *wide])
    source = rows.features(case.options, case.dataset, full)
    for seed in case.options.seeds:
        _compare(case, full, source, seed)


def _compare(case: Case, full: Backbone, source: Source, seed: int) -> None:
    """Computes the rows of one seed."""
    options, _, dataset, net = case
    recipe = stages.Recipe(runner.settings(options), seed)
    made, prepare = held_out.pasted(dataset, seed=seed, recipes=SHOWN)
    told = f"pasted {seed}"
    held = rows.features(options, made, full, prepare=prepare, prepared=told)

    def pasted(layers: list[str]) -> dict[str, float]:
        scores = rows.glad(held, made, recipe, layers=layers).evaluation.scores
        return held_out.told(made, scores)

    for rule, layers in rules(net).items():

        def make(layers=layers) -> Record:  # noqa: ANN001
            record = rows.glad(source, dataset, recipe, layers=layers).record
            return {**record, "pasted": pasted(layers)}

        settings = rows.described(recipe, local=True, layers=layers)
        study.row(case, rule, seed, settings, make)


def _means(records: Sequence[Record]) -> dict[tuple[str, str], dict[str, float]]:
    """Returns AUROCs by category and rule: pasted ones by recipe, and the real one."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["category"], record["method"]), []).append(record)
    return {
        at: {
            **{k: float(np.mean([r["pasted"][k] for r in own])) for k in SHOWN},
            "real": float(np.mean([r["image_auroc"] for r in own])),
        }
        for at, own in groups.items()
    }


def agreement(records: Sequence[Record]) -> dict[str, float]:
    """Returns how well each recipe ranks rules, as real defects of other sets do.

    Args:
      records: All rows.

    Returns:
      Rank correlations of the rules' mean AUROC on pasted defects of all categories
      but one with their AUROC on the real defects of that one, averaged over it.
    """
    found = _means(records)
    categories = list(dict.fromkeys(c for c, _ in found))
    names = list(dict.fromkeys(m for _, m in found))
    if len(categories) < 2 or any(
        (c, m) not in found for c in categories for m in names
    ):
        return {}
    out = {}
    for kind in SHOWN:
        each = []
        for left in categories:
            others = [c for c in categories if c != left]
            pasted = [np.mean([found[c, m][kind] for c in others]) for m in names]
            real = [found[left, m]["real"] for m in names]
            first, second = (np.argsort(np.argsort(v)) for v in (pasted, real))
            each.append(float(np.corrcoef(first, second)[0, 1]))
        out[kind] = float(np.mean(each))
    return out


def choose(records: Sequence[Record]) -> str:
    """Returns the rule of the best mean on pasted defects.

    Args:
      records: The rows; the AUROCs of test images are not looked at.
    """
    found = _means(records)
    score: dict[str, list[float]] = {}
    for (_, rule), values in found.items():
        score.setdefault(rule, []).append(float(np.mean([values[k] for k in SHOWN])))
    return max(score, key=lambda rule: float(np.mean(score[rule])))


def notes(records: Sequence[Record]) -> list[str]:
    """Says which rule pasted defects choose, and how far to trust them.

    Args:
      records: All rows.
    """
    known = agreement(records)
    lines = [f"Chosen on pasted defects: {choose(records)}."] if records else []
    if known:
        told = ", ".join(f"{kind} {value:.2f}" for kind, value in known.items())
        lines.append(
            "Rank correlation of pasted defects with the real ones of a category that "
            f"they were not pasted into: {told}."
        )
    return lines


def table(records: Sequence[Record]) -> list[list[str]]:
    """Returns a row for each category and rule, then the means.

    Args:
      records: All rows.
    """
    head = ["category", "rule", "seeds", *(f"pasted: {k}" for k in SHOWN)]
    head += ["pasted, mean", "image AUROC, test", "pixel AUROC", "AU-PRO", "fit s"]
    out = [head]
    categories = list(dict.fromkeys(record["category"] for record in records))
    for category in [*categories, "mean"]:
        for rule in dict.fromkeys(record["method"] for record in records):
            own = [r for r in records if r["method"] == rule]
            if category != "mean":
                own = [r for r in own if r["category"] == category]
            if own:
                pasted = [np.mean([r["pasted"][k] for r in own]) for k in SHOWN]
                shown = [runner.percent(float(p)) for p in [*pasted, np.mean(pasted)]]
                real = [
                    runner.percent(rows.balanced(own, name))
                    if category == "mean"
                    else rows.cell(r[name] for r in own)
                    for name in ("image_auroc", "pixel_auroc", "aupro")
                ]
                seeds = " ".join(str(s) for s in sorted({r["seed"] for r in own}))
                seconds = f"{np.mean([r['fit_seconds'] for r in own]):.1f}"
                out.append([category, rule, seeds, *shown, *real, seconds])
    return out


if __name__ == "__main__":
    main()
