"""The training loop of the learned baselines: Adam on a loss that draws its own batch.

A loss takes parameters, data and a key, and draws what it needs from the data with the
key; one step is one compiled program. The rate rises linearly over the first twentieth
of the steps and falls by a half cosine to a hundredth; gradients are clipped by their
global norm.

Differs from the reference in: nothing, the module has none of its own.

Reference: Kingma, Ba. "Adam: A Method for Stochastic Optimization". ICLR 2015.
"""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

Params = TypeVar("Params")


def optimizer(
    num_steps: int, *, learning_rate: float, max_norm: float = 1.0
) -> optax.GradientTransformation:
    """Returns Adam with a warm-up, a cosine and clipped gradients.

    Args:
      num_steps: Number of steps the schedule is made for.
      learning_rate: Largest rate.
      max_norm: Largest norm of the gradients.

    Returns:
      The optax transformation.

    Raises:
      ValueError: If a number is not positive.
    """
    for name, value in (("num_steps", num_steps), ("learning_rate", learning_rate)):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
    warmup = max(1, num_steps // 20)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=learning_rate / warmup,
        peak_value=learning_rate,
        warmup_steps=warmup,
        decay_steps=max(num_steps, warmup + 1),
        end_value=learning_rate / 100,
    )
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(schedule))


def generator(key: PRNGKeyArray) -> np.random.Generator:
    """Returns a NumPy generator seeded by a key, for draws made once, on the host.

    Parameters drawn so need no compilation, one per shape, and are the same in float32
    and float64.

    Args:
      key: The seed; it must not be used for anything else.
    """
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.random.default_rng(np.asarray(jax.random.key_data(key) if typed else key))


def minimize(
    key: PRNGKeyArray,
    params: Params,
    data: Any,  # noqa: ANN401 - any pytree
    *,
    loss: Callable[[Params, Any, PRNGKeyArray, Any], Array],
    settings: Hashable = None,
    num_steps: int,
    learning_rate: float,
    max_norm: float = 1.0,
) -> tuple[Params, Float[np.ndarray, " _s"]]:
    """Minimises a loss by Adam.

    Args:
      key: Split into one key per step.
      params: Where to start.
      data: What the loss draws from; a pytree of arrays.
      loss: Function of parameters, data, a key and the settings, returning a scalar. A
        function of a module compiles once for all fits of one shape.
      settings: Handed to the loss, as a constant.
      num_steps: Number of steps.
      learning_rate: Largest rate.
      max_norm: Largest norm of the gradients.

    Returns:
      The parameters after the last step and the loss at each step.

    Raises:
      ValueError: If a number is not positive.
      FloatingPointError: If the loss of the last step is not finite.

    Example:
      >>> def loss(x, data, key, settings):
      ...     return jnp.sum((x - data) ** 2)
      >>> x, losses = minimize(
      ...     jax.random.key(0), jnp.zeros(2), jnp.ones(2),
      ...     loss=loss, num_steps=200, learning_rate=0.1,
      ... )
      >>> print(jnp.round(x, 2).tolist(), losses.shape)
      [1.0, 1.0] (200,)
    """
    rates = num_steps, learning_rate, max_norm
    now: Any = params
    state, losses = _transform(rates).init(now), []
    for one in jax.random.split(key, num_steps):
        now, state, value = _step(
            now, state, data, one, loss=loss, settings=settings, rates=rates
        )
        losses.append(value)
    found = np.asarray(jnp.stack(losses))
    if not np.isfinite(found[-1]):
        raise FloatingPointError("the loss is not finite; use a lower learning_rate")
    return now, found


def _transform(rates: tuple[int, float, float]) -> optax.GradientTransformation:
    """Returns the optimiser for a number of steps, a rate and a norm."""
    num_steps, learning_rate, max_norm = rates
    return optimizer(num_steps, learning_rate=learning_rate, max_norm=max_norm)


@partial(jax.jit, static_argnames=("loss", "settings", "rates"))
def _step(
    params: Any,  # noqa: ANN401
    state: Any,  # noqa: ANN401
    data: Any,  # noqa: ANN401
    key: PRNGKeyArray,
    *,
    loss: Callable[..., Array],
    settings: Hashable,
    rates: tuple[int, float, float],
) -> tuple[Any, Any, Array]:
    """Takes one step of Adam."""
    value, gradients = jax.value_and_grad(loss)(params, data, key, settings)
    # optax multiplies its integer count of steps with floats.
    with jax.numpy_dtype_promotion("standard"):
        updates, state = _transform(rates).update(gradients, state, params)
    return optax.apply_updates(params, updates), state, value
