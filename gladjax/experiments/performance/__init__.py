"""How fast, and against what: K-MLE and assignment on real features.

    python -m gladjax.experiments.performance assignment --output OUT
    python -m gladjax.experiments.performance growth --output OUT
    python -m gladjax.experiments.performance peers --output OUT
    python -m gladjax.experiments.performance paper_size --output OUT
    python -m gladjax.experiments.performance out_of_core --output OUT
    python -m gladjax.experiments.performance export --output OUT

The images come with the package ``elpv-dataset``. Every quotient of times is measured
in one process. `timing` has the baseline and the clock, the other modules a table each.

Reference: Artola et al., "GLAD", WACV 2023, Table 5 and Section 4.4 (20 minutes to 2
hours per layer, 3.04 GB).
"""
