"""A jit for programs that a test runs once: compiling them is most of the time."""

import functools

import jax

quick = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
