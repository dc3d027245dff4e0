"""The paper's experiments, one module each: ``python -m gladjax.experiments.X``."""
