"""K-MLE beside EM of other libraries: time per iteration and likelihood reached.

All start from the same labels on the same real features (EfficientNet-Lite0, third
layer) and do the same number of iterations with full covariances: K-MLE with OAS, our
EM, scikit-learn's ``GaussianMixture`` and, where it is installed, the
package ``gmmx``. The likelihood is that of the whole mixture, ``log sum_k pi_k N_k``,
mean per sample, on the samples of the fit and on as many others.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from gladjax import em, kmle, mixture
from gladjax.experiments.performance import timing
from gladjax.mixture import AnyArray, GaussianMixture

Peer = Callable[[np.ndarray, GaussianMixture, int], tuple[float, GaussianMixture]]
RIDGE = 1e-3  # Of the mean variance, what others add to a diagonal.


def measure(
    *, num_samples: int = 25_600, num_components: int = 50, steps: int = 10
) -> list[dict[str, Any]]:
    """Measures all that are installed.

    Args:
      num_samples: Samples of the fit; as many again are held out.
      num_components: Components.
      steps: Iterations of each.

    Returns:
      One record per system.
    """
    both = timing.solar_cells("efficientnet_lite0", "layer3", limit=2 * num_samples)
    train, held_out = both[::2], both[1::2]
    start = kmle.init(jax.random.key(0), train, num_components=num_components).mixture
    start = jax.tree.map(np.asarray, start)
    systems: dict[str, Peer] = {"gladjax K-MLE": _ours(kmle), "gladjax EM": _ours(em)}
    for name, module, peer in (
        ("scikit-learn", "sklearn", _sklearn),
        ("gmmx", "gmmx", _gmmx),
    ):
        if importlib.util.find_spec(module):
            systems[name] = peer
    records = []
    for name, peer in systems.items():
        seconds, fitted = peer(train, start, steps)
        records.append(
            {
                "system": name,
                "num_samples": num_samples,
                "num_components": num_components,
                "width": train.shape[1],
                "steps": steps,
                "seconds_per_step": seconds / steps,
                "log_likelihood": _likelihood(fitted, train),
                "held_out": _likelihood(fitted, held_out),
            }
        )
    return records


def _likelihood(fitted: GaussianMixture, x: np.ndarray) -> float:
    with jax.enable_x64(True):
        exact = _wide(fitted)
        log_prob = jax.jit(jax.vmap(mixture.log_prob, in_axes=(None, 0)))
        parts = [log_prob(exact, _wide(x[i : i + 512])) for i in range(0, len(x), 512)]
        return float(np.mean(np.concatenate(parts)))


def _wide(tree: Any) -> Any:  # noqa: ANN401 - any pytree
    """Returns a pytree in float64, where that is enabled."""

    def wide(leaf: AnyArray) -> jax.Array:
        host = np.asarray(leaf)
        return jnp.asarray(host.astype(float) if host.dtype.kind == "f" else host)

    return jax.tree.map(wide, tree)


def _ours(module: Any) -> Peer:  # noqa: ANN401 - a module
    """Returns the fit of K-MLE or EM; the key makes the same first labels."""

    def fit(
        x: np.ndarray, start: GaussianMixture, steps: int
    ) -> tuple[float, GaussianMixture]:
        options = {"num_components": len(start.means), "tolerance": 0.0}
        module.fit(jax.random.key(0), x, max_steps=1, **options)  # Compiles.
        seconds = []
        for number in (0, steps):  # What comes before the first step is not counted.
            begun = time.perf_counter()
            fitted, _ = module.fit(jax.random.key(0), x, max_steps=number, **options)
            seconds.append(time.perf_counter() - begun)
        return seconds[1] - seconds[0], fitted

    return fit


def _sklearn(
    x: np.ndarray, start: GaussianMixture, steps: int
) -> tuple[float, GaussianMixture]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as Peer

    with jax.enable_x64(True):
        spread = np.asarray(mixture.covariances(_wide(start)))
    precisions = np.linalg.inv(spread)
    weights = np.exp(start.log_weights.astype(np.float64))
    model = Peer(
        len(start.means),
        weights_init=weights / weights.sum(),
        means_init=start.means.astype(np.float64),
        precisions_init=(precisions + np.swapaxes(precisions, 1, 2)) / 2,
        reg_covar=RIDGE * float(x.var(axis=0).mean()),
        tol=0.0,
        max_iter=steps,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        begun = time.perf_counter()
        model.fit(x)
        seconds = time.perf_counter() - begun
    return seconds, _wrapped(model.weights_, model.means_, model.covariances_)


def _gmmx(
    x: np.ndarray, start: GaussianMixture, steps: int
) -> tuple[float, GaussianMixture]:
    gmmx = importlib.import_module("gmmx")
    first = gmmx.GaussianMixtureModelJax.from_squeezed(
        means=start.means,
        covariances=np.asarray(mixture.covariances(start)),
        weights=np.exp(start.log_weights),
    )
    ridge = RIDGE * float(x.var(axis=0).mean())
    fitter = gmmx.EMFitter(tol=0.0, max_iter=1, reg_covar=ridge)
    samples = jnp.asarray(x)
    # LAPACK is called from threads of XLA; with threads of its own it may wait forever.
    with threadpoolctl.threadpool_limits(1, "blas"):
        jax.block_until_ready(fitter.fit(samples, first).log_likelihood)  # Compiles.
        fitted, begun = first, time.perf_counter()
        for _ in range(steps):
            found = fitter.fit(samples, fitted)
            fitted = found.gmm
            jax.block_until_ready(found.log_likelihood)
    seconds = time.perf_counter() - begun
    spread = fitted.covariances.values_numpy
    return seconds, _wrapped(fitted.weights_numpy, fitted.means_numpy, spread)


def _wrapped(weights: object, means: object, spread: object) -> GaussianMixture:
    with jax.enable_x64(True):
        dense = np.asarray(spread, np.float64)
        dense = (dense + np.swapaxes(dense, 1, 2)) / 2
        return mixture.from_moments(
            np.asarray(weights, np.float64), np.asarray(means, np.float64), dense
        )


def rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """Returns the records as rows of a table, the head first."""
    lines = [["system", "s per iteration", "log-likelihood", "held out"]]
    for r in records:
        cells = [r["system"], f"{r['seconds_per_step']:.3f}"]
        cells += [f"{r['log_likelihood']:.3f}", f"{r['held_out']:.3f}"]
        lines.append(cells)
    return lines
