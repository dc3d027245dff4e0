"""Compiler settings shared by the kernels.

Minus infinity is a value here (the logarithm of a weight that is 0), so the fast-math
flags leave out ``nnan`` and ``ninf``. What remains lets sums be reordered, which is
what turns a loop into vector instructions.

Kernels carry ``@no_type_check``: annotations executed at run time would wrap the
function that Numba is to compile.
"""

FAST = {"reassoc", "contract", "arcp", "nsz"}
PARALLEL = {"parallel": True, "fastmath": FAST, "cache": True, "nogil": True}
SERIAL = {"fastmath": FAST, "cache": True, "nogil": True, "inline": "never"}
