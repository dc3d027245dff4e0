"""Sets the flags of XLA for all tests, and for the programs that they start."""

import os
import subprocess
import sys

# Virtual devices for the sharding tests; a single program still uses device 0. Programs
# are compiled without optimisation: here most of the time is compiling, not running.
FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",  # The other core has tests of its own.
    # A tenth of the time to compile, and they only make programs faster.
    "--xla_disable_hlo_passes=while-loop-invariant-code-motion,simplify-while-loops",
)
PLAIN = "--xla_cpu_use_fusion_emitters=false"  # Halves the time; not of every version.
if "XLA_FLAGS" not in os.environ:
    flags = [*FLAGS, PLAIN]
    known = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env={**os.environ, "XLA_FLAGS": " ".join(flags)},
        capture_output=True,
        check=False,
    )
    os.environ["XLA_FLAGS"] = " ".join(FLAGS if known.returncode else flags)
