"""Starting points of the mixture.

The paper names no initialisation and reports that the result does not depend on it
(R4). A seeding is a function ``(key, samples, num_components) -> centres``; K-MLE then
makes one Euclidean assignment and one M-step.

`kmeans_plus_plus` draws each centre with a probability proportional to the squared
distance from the centres so far; `random` draws samples without replacement.

Reference: Arthur, Vassilvitskii, "k-means++: the advantages of careful seeding",
SODA 2007.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from gladjax import devices, routing
from gladjax.covariance import PRECISION


def kmeans_plus_plus(
    key: Key[Array, ""], samples: Float[Array, "n d"], num_components: int
) -> Float[Array, "k d"]:
    """Draws centres far from one another.

    Args:
      key: Randomness.
      samples: Samples to draw from, at least ``num_components``.
      num_components: Number of centres ``k``.

    Returns:
      The centres. Where fewer than ``k`` samples are distinct some repeat.
    """
    n = samples.shape[0]
    first, rest = jax.random.split(key)
    uniform = jax.random.uniform(rest, (num_components,), samples.dtype)
    origin = jax.random.randint(first, (), 0, n)

    def squared(centre: Array) -> Array:
        return jnp.sum(jnp.square(samples - centre[None, :]), axis=1)

    def draw(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        chosen, distance = carry
        total = jnp.cumsum(distance)
        at = jnp.searchsorted(total, uniform[i] * total[-1], side="right")
        at = jnp.minimum(at, n - 1).astype(origin.dtype)
        distance = jnp.minimum(distance, squared(samples[at]))
        return chosen.at[i].set(at), distance

    chosen = jnp.full((num_components,), origin)
    start = (chosen, squared(samples[origin]))
    chosen, _ = jax.lax.fori_loop(1, num_components, draw, start)
    return samples[chosen]


def random(
    key: Key[Array, ""], samples: Float[Array, "n d"], num_components: int
) -> Float[Array, "k d"]:
    """Draws samples without replacement.

    Args:
      key: Randomness.
      samples: Samples to draw from, at least ``num_components``.
      num_components: Number of centres ``k``.

    Returns:
      The centres.
    """
    chosen = jax.random.choice(key, samples.shape[0], (num_components,), replace=False)
    return samples[chosen]


def filled(
    features: Float[Array, "n d"], valid: Bool[Array, " n"]
) -> Float[Array, "n d"]:
    """Returns samples of which those that do not count are copies of one that does.

    Args:
      features: Samples.
      valid: Which of them count.
    """
    stand_in = features[jnp.argmax(valid)]
    return jnp.where(valid[:, None], features, stand_in[None, :])


def subsample(key: Key[Array, ""], valid: np.ndarray, size: int) -> np.ndarray:
    """Draws samples to seed from, on the host.

    Args:
      key: Randomness.
      valid: Which samples may be drawn, ``(n,)``.
      size: Number to draw at most.

    Returns:
      Indices of valid samples in rising order.
    """
    index = np.flatnonzero(valid)
    if len(index) <= size:
        return index
    # NumPy draws any number without a program of its own.
    draw = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return index[np.sort(draw.choice(len(index), size, replace=False, shuffle=False))]


def euclidean(
    features: Float[Array, "n d"], centres: Float[Array, "k d"]
) -> Int[Array, " n"]:
    """Assigns samples to the nearest centre.

    Args:
      features: Samples.
      centres: Centres.

    Returns:
      The nearest centre of each sample, the first of equals.
    """
    middle = jnp.mean(centres, axis=0)
    c = centres - middle[None, :]
    half = 0.5 * jnp.sum(jnp.square(c), axis=1)

    def visit(part: Array) -> tuple[Array, tuple[()]]:
        x = part - middle[None, :]
        cost = half[:, None] - jnp.matmul(c, x.T, precision=PRECISION)
        return routing.least(cost)[1], ()

    return devices.in_chunks(visit, (features,), devices.sizes().chunk)[0]
