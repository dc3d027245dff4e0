"""K-MLE and scoring at the paper's size on the device at hand, in a few minutes.

Synthetic features of the paper's shapes, drawn on the device from a seeded mixture:
components along a common rotated basis, with the spectrum of a layer and the spreads of
components that were measured on layers of EfficientNet-Lite0: tight along the leading
axes, nearly as wide as the layer along the others. Per layer: the whole fit to the
paper's stopping rule, compilation included; the two steps by themselves; labels against
an argmin in float64 on the host; then images scored per second, maps alone and with a
network of random weights. On a CPU everything is reduced.

The share of the peak counts the products that are needed: bounds, exact costs,
scatters and Gram matrices; the peak is that of a float32 product in full precision.

The paper: 20 minutes to 2 hours per layer, 0.61 s per image.
"""

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gladjax import assign, backbone, detector, devices, kmle, scoring, weights
from gladjax.covariance import PRECISION
from gladjax.detector import Layer
from gladjax.mixture import GaussianMixture

# Images, side of the map, features, components: of the paper's layers.
PAPER = {"layer3": (200, 16, 1024), "layer2": (200, 32, 512), "layer1": (200, 64, 256)}
LITE = {"layer3": (30, 16, 112), "layer2": (30, 32, 40), "layer1": (30, 64, 24)}
BATCHES = (1, 32, 256)
TIE = 1e-5  # Relative difference of costs that float32 does not resolve.


def features(
    key: Array, shape: tuple[int, int, int], num_components: int
) -> Float[Array, "m h w d"]:
    """Draws feature maps from a mixture whose components have their places.

    Args:
      key: Randomness.
      shape: Images, side of the map and features.
      num_components: Components of the mixture.
    """
    return _draw(key, shape, num_components)


@partial(jax.jit, static_argnums=(1, 2))
def _draw(key: Array, shape: tuple[int, int, int], k: int) -> Array:
    m, side, d = shape
    keys = jax.random.split(key, 6)
    axis = jnp.arange(1, d + 1, dtype=jnp.float32)
    spectrum = axis**-0.68
    # Components are tight along the leading axes and as wide as the layer behind them.
    depth = jnp.minimum(jnp.log(axis) / math.log(64), 1)
    share = jnp.exp(1.35 * depth - 1.6)
    rotation = jnp.linalg.qr(jax.random.normal(keys[0], (d, d)))[0]
    means = jax.random.normal(keys[1], (k, d)) * jnp.sqrt(1 - share**2) * spectrum
    varied = 0.35 * axis**-0.2 * jax.random.normal(keys[2], (k, d))
    spreads = spectrum * share * jnp.exp(varied)
    # A tenth of the components is at home at a position.
    home = jax.random.randint(keys[3], (side * side, max(1, k // 10)), 0, k)
    pick = jax.random.randint(keys[4], (m, side * side), 0, home.shape[1])
    labels = jnp.take_along_axis(home[None], pick[:, :, None], axis=2)[:, :, 0]

    def image(part: tuple[Array, Array]) -> Array:
        label, key = part
        noise = jax.random.normal(key, (side * side, d))
        x = means[label] + spreads[label] * noise
        return jnp.matmul(x, rotation.T, precision=PRECISION)

    maps = jax.lax.map(image, (labels, jax.random.split(keys[5], m)))
    return maps.reshape(m, side, side, d)


def clocked(function: Callable[[], Any], *, rounds: int = 5) -> float:
    """Returns the median time of a call, in seconds, compilation left out."""
    jax.block_until_ready(function())
    passed = []
    for _ in range(rounds):
        begun = time.perf_counter()
        jax.block_until_ready(function())
        passed.append(time.perf_counter() - begun)
    return statistics.median(passed)


def peak(size: int) -> float:
    """Returns the best rate of a float32 product in full precision, in Gflop/s."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(partial(jnp.matmul, precision=PRECISION))
    return 2e-9 * size**3 / clocked(lambda: product(a, a))


def measure(
    *,
    reduced: bool,
    max_steps: int = 100,
    save: Callable[[dict[str, Any]], object] = lambda _: None,
) -> dict[str, Any]:
    """Measures everything on JAX's default device.

    Args:
      reduced: Whether to take an eighth of the images and a quarter of the components.
      max_steps: Largest number of steps of a fit.
      save: Called with what is known after each layer.

    Returns:
      The record.
    """
    device = jax.devices()[0]
    record: dict[str, Any] = {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "reduced": reduced,
        "peak_gflops": peak(2048 if reduced else 8192),
        "sizes": devices.sizes()._asdict(),
    }
    for kind, shapes, k in (("lite0", LITE, 200), ("paper", PAPER, 1000)):
        layers, whole = {}, {}
        for i, (name, (m, side, d)) in enumerate(shapes.items()):
            shape = (max(2, m // 8) if reduced else m, side, d)
            components = k // 4 if reduced else k
            # Fewer components than are looked for: the fit has something to find out.
            maps = features(jax.random.key(i), shape, components * 7 // 10)
            whole[name], layers[name] = _layer(
                maps, components, max_steps, record["peak_gflops"]
            )
            record[kind] = {"layers": whole}
            save(record)
            del maps
        fit = sum(layer["fit_seconds"] for layer in whole.values())
        record[kind] = {"layers": whole, "fit_seconds": fit}
        record[kind]["scoring"] = _scoring(kind, layers, shapes, reduced=reduced)
        stats = device.memory_stats() or {}
        record["peak_bytes"] = stats.get("peak_bytes_in_use")
        save(record)
    return record


def _layer(
    maps: Float[Array, "m h w d"], k: int, max_steps: int, peak: float
) -> tuple[dict[str, Any], Layer]:
    """Fits one layer and measures its steps."""
    d = maps.shape[-1]
    x = maps.reshape(-1, d)
    ends = [time.perf_counter()]
    fitted, info = kmle.fit(
        jax.random.key(0),
        x,
        num_components=k,
        max_steps=max_steps,
        monitor=lambda _: ends.append(time.perf_counter()),
    )
    fit_seconds = time.perf_counter() - ends[0]
    step = statistics.median(np.diff(ends)[1:].tolist() or [fit_seconds])
    axes = jax.jit(assign.coordinates)(x)
    labels = jnp.asarray(info.labels)
    labels, _, found = assign.nearest_info(fitted, x, start=labels, axes=axes)
    search = clocked(lambda: assign.nearest(fitted, x, start=labels, axes=axes))
    estimate = max(step - search, 1e-9)
    living = fitted.means.shape[0]
    counts = np.bincount(np.asarray(labels), minlength=living).astype(float)
    begun = time.perf_counter()
    local, weighed = weights.fit_info(fitted, maps)
    weights_seconds = time.perf_counter() - begun
    n, r = len(x), axes.basis.shape[1]
    monomials = (r + 1) * (r + 2) // 2
    rows = float(np.mean(np.minimum(counts, d)[np.asarray(labels)]))
    few = counts < d
    work_search = 2.0 * n * living * monomials
    work_search += float(found.evaluated) * n * 2 * d * rows
    work_estimate = float(np.sum(np.where(few, 2 * counts**2 * d, 2 * counts * d * d)))
    result = {
        "samples": n,
        "features": d,
        "components": [k, living],
        "fit_seconds": fit_seconds,
        "steps": len(info.log_likelihood),
        "converged": bool(info.converged),
        "first_step_seconds": ends[1] - ends[0],
        "step_seconds": step,
        "e_step_seconds": search,
        "m_step_seconds": estimate,
        "e_step_share_of_peak": 1e-9 * work_search / search / peak,
        "m_step_share_of_peak": 1e-9 * work_estimate / estimate / peak,
        "full_costs_per_sample": float(found.evaluated),
        "least_margin": float(jnp.min(found.margin)),
        "weights_seconds": weights_seconds,
        "weights_steps": len(weighed.moved),
        "active_per_position": float(weights.active(local).mean()),
        **unlike_float64(fitted, np.asarray(x[:512]), np.asarray(labels[:512])),
    }
    ready = scoring.prepare(fitted, local)
    return result, Layer(fitted, local, ready)


def unlike_float64(
    fitted: GaussianMixture, x: np.ndarray, labels: np.ndarray
) -> dict[str, int]:
    """Counts labels that differ from the argmin of float64 costs, and ties of them.

    Args:
      fitted: The mixture.
      x: Samples, few.
      labels: Their labels.
    """
    given = jax.tree.map(np.asarray, fitted)
    d = x.shape[1]
    costs = np.empty((len(x), len(given.means)))
    for c, (first, rank) in enumerate(zip(given.offsets, given.ranks, strict=True)):
        rows = given.rows[first : first + rank].astype(np.float64)
        e = x - given.means[c].astype(np.float64)
        t = e @ rows.T
        if rank < d:
            a, s = float(given.scales[c]), float(given.noise[c])
            v = np.linalg.solve(s * np.eye(rank) + a * rows @ rows.T, t.T).T
            rest = e - a * v @ rows
            distance = (rest**2).sum(axis=1) / s + a * (v**2).sum(axis=1)
        else:
            distance = (t**2).sum(axis=1)
        costs[:, c] = distance + given.log_dets[c] - 2.0 * given.log_weights[c]
    exact, least = costs.argmin(axis=1), np.sort(costs, axis=1)[:, :2]
    unlike = labels != exact
    close = least[:, 1] - least[:, 0] <= TIE * np.abs(least[:, 0])
    return {
        "checked_in_float64": len(x),
        "unlike_float64": int(np.sum(unlike)),
        "of_them_ties": int(np.sum(unlike & close)),
    }


def _scoring(
    kind: str,
    layers: dict[str, Layer],
    shapes: dict[str, tuple[int, int, int]],
    *,
    reduced: bool,
) -> dict[str, Any]:
    """Returns images per second, maps alone and with the network."""
    name = "wide_resnet50_2" if kind == "paper" else "efficientnet_lite0"
    network = backbone.random(jax.random.key(0), name)
    found: dict[str, Any] = {}
    for batch in BATCHES[:2] if reduced else BATCHES:
        maps = {
            layer: features(jax.random.key(9), (batch, side, d), 64)
            for layer, (_, side, d) in shapes.items()
        }
        logs = jax.jit(
            lambda layers, maps: [
                scoring.log_prob_maps(layer.mixture, layer.prepared, maps[name])
                for name, layer in layers.items()
            ]
        )
        alone = clocked(partial(logs, layers, maps), rounds=3)
        found[f"maps_of_{batch}"] = batch / alone
        if kind == "paper" and reduced:
            continue
        size = network.image_size
        pixels = jax.random.normal(jax.random.key(1), (batch, *size, 3))
        seconds = clocked(partial(detector.run, network, layers, pixels), rounds=3)
        found[f"images_of_{batch}"] = batch / seconds
    return found


def rows(record: dict[str, Any]) -> list[list[str]]:
    """Returns the record as rows of a table, the head first."""
    head = ["size", "layer", "samples", "features", "components", "fit s", "steps"]
    head += ["E-step s", "of peak", "M-step s", "of peak", "full costs"]
    lines = [[*head, "unlike float64"]]
    for kind in ("paper", "lite0"):
        for name, r in record[kind]["layers"].items():
            cells = [kind, name, r["samples"], r["features"], r["components"][1]]
            cells += [f"{r['fit_seconds']:.1f}", r["steps"]]
            cells += [f"{r['e_step_seconds']:.4f}", f"{r['e_step_share_of_peak']:.2f}"]
            cells += [f"{r['m_step_seconds']:.4f}", f"{r['m_step_share_of_peak']:.2f}"]
            cells += [f"{r['full_costs_per_sample']:.2f}"]
            cells += [f"{r['unlike_float64']} of {r['checked_in_float64']}"]
            lines.append([str(cell) for cell in cells])
    return lines
