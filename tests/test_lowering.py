"""Programs lowered for every kind of device, on a machine that may have none of them.

Nothing is compiled or computed: shapes alone are enough, so they may be large. What a
program must not hold, whatever it is lowered for, is in `faults`.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gladjax import (
    align,
    assign,
    backbone,
    covariance,
    devices,
    estimation,
    kmle,
    samples,
    scoring,
    seeding,
    steps,
    weights,
)
from gladjax.align import plan, pyramid, registration, robust
from gladjax.assign import tracking
from gladjax.detector import inference
from gladjax.detector.model import Layer
from gladjax.weights import bands, fitting

# Custom calls that a platform has, by how their names begin.
OWN = {"cpu": ("lapack_",), "cuda": ("cu",), "rocm": ("hip",), "tpu": ("Eigh",)}
N, K, D = 400_009, 211, 67  # Samples are more than the chunk of any device.
M, GRID, COMPONENTS = 2003, (8, 8), 1009  # Images whose samples are more, too.
SIZE = (32, 32)
WHOLE = 24  # Features of which bounds take all.
IMAGES, FRAME, PHOTO = 11, (97, 89), (83, 101)
ROOM = 1 << 20  # Numbers of the inverses.


@pytest.fixture(params=sorted(OWN))
def platform(request):
    """A platform whose sizes the programs take; traces of another one are forgotten."""
    jax.clear_caches()
    with devices.lowering(request.param):
        yield request.param
    jax.clear_caches()


def of(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def lowered(function, platform, *args, **options):
    """The StableHLO text of a jitted function."""
    exported = jax.export.export(function, platforms=[platform])(*args, **options)
    assert not exported.ordered_effects
    assert not exported.unordered_effects
    return exported.mlir_module()


def buffers(text):
    """Shapes and types of the arrays of a program."""
    found = set(re.findall(r"tensor<((?:\d+x)*)(\w+)>", text))
    return {(tuple(map(int, dims.split("x")[:-1])), dtype) for dims, dtype in found}


def faults(text, platform, most):
    """What a program lowered for a platform must not hold."""
    calls = set(re.findall(r"custom_call @(\w+)", text))
    found = [f"calls {name}" for name in calls if not name.startswith(OWN[platform])]
    for shape, dtype in buffers(text):
        if dtype == "f64" or math.prod(shape) >= most:
            found.append(f"holds {dtype}{list(shape)}")
    return found


@functools.cache
def mixture_of(count, num_components, *, d=D):
    """The shapes of a mixture that is fitted to so many samples."""
    room = (min(count, num_components * d), ROOM)
    return jax.eval_shape(
        lambda *args: estimation.maximize(*args, num_components, room=room),
        of((count, d)),
        of((count,), jnp.int32),
    )


def in_chunks(text, platform, *, alike=None):
    """Tells whether a program holds what one chunk of that platform has.

    So many samples alike are cut into chunks of about the same size, in 64s.
    """
    chunk = devices.sizes().chunk
    assert chunk == (8192 if platform == "cpu" else 65536)
    if alike is not None:
        chunk = 64 * math.ceil(alike / math.ceil(alike / chunk) / 64)
    return any(chunk in shape for shape, _ in buffers(text))


def test_faults_are_found():
    def lower(function, *shapes):
        return jax.jit(function).lower(*map(of, shapes)).as_text()

    def distances(x, y):
        return jnp.sum((x[:, None] - y[None]) ** 2, axis=2)

    def host(x):
        return jax.pure_callback(np.sin, of(x.shape), x)

    assert not faults(lower(distances, (31, 5), (7, 5)), "tpu", 31 * 7 * 5 + 1)
    (found,) = faults(lower(distances, (31, 5), (7, 5)), "tpu", 31 * 7 * 5)
    assert found == "holds f32[31, 7, 5]"
    assert "callback" in faults(lower(host, (3,)), "cpu", 100)[0]
    (found,) = faults(lower(jnp.linalg.cholesky, (3, 3)), "cuda", 100)
    assert found == "calls lapack_spotrf_ffi"
    with jax.enable_x64(True):
        wide = lower(lambda x: x.astype(jnp.float64), (3,))
    assert faults(wide, "cpu", 100) == ["holds f64[3]"]


def test_k_mle_lowers(platform):
    x, used, labels = of((N, D)), of((N,), bool), of((N,), jnp.int32)
    floor, axes = jax.eval_shape(samples._summary, x, used)
    old = mixture_of(N, K)
    bounds = jax.eval_shape(assign.prepare, old, axes)
    options = {"min_count": 2, "shrinkage": covariance.oas}
    seed = jax.jit(seeding.kmeans_plus_plus, static_argnums=2)
    key = jax.eval_shape(lambda: jax.random.key(0))
    few = of((kmle.SEED_SAMPLES, D))
    known = assign.Known(labels, of((N,)), of((N,)))
    some, count = of((assign.WIDTH,), jnp.int32), of((), jnp.int32)
    programs = {
        "scale": lowered(samples._largest, platform, x, used),
        "floor and axes": lowered(samples._summary, platform, x, used),
        "seeds": lowered(seed, platform, key, few, K),
        "start": lowered(kmle._euclidean, platform, x, used, of((K, D)), 0),
        "bounds": lowered(assign.prepared, platform, old, axes),
        "E-step": lowered(
            steps._search, platform, old, bounds, x, used, labels, 0, True
        ),
        "E-step of what changed": lowered(
            tracking._among, platform, old, bounds, x, known, labels, used, some
        ),
        "E-step of what is left": lowered(
            tracking._anew, platform, old, bounds, x, known, labels, labels, count
        ),
        "room": lowered(steps._needed, platform, labels, K, D),
        "M-step": lowered(
            steps._reestimate, platform, old, x, labels, floor, **options
        ),
    }
    for name, text in programs.items():
        # No N x K, so no N x K x d either.
        assert not faults(text, platform, N * K), name
        # Accelerators do eigendecompositions badly: there is one of d x d in a fit.
        assert bool(re.search("syevd|Eigh", text)) == (name == "floor and axes"), name
    assert in_chunks(programs["start"], platform)
    assert in_chunks(programs["E-step"], platform, alike=N)
    # The arrays of the old mixture, all of them, become those of the new one.
    entry = programs["M-step"].split("@main(")[1].split(" {\n")[0]
    given, result = entry.split(" -> (")
    reused = re.findall(r"(tensor<\w+>) \{[^}]*tf.aliasing_output = (\d+)", given)
    assert sorted(int(place) for _, place in reused) == list(range(9))
    returned = re.findall(r"tensor<\w+>", result)
    assert all(kind == returned[int(place)] for kind, place in reused)


def test_local_weights_lower(platform):
    mixture, (h, w) = mixture_of(M * math.prod(GRID), COMPONENTS), GRID
    some = of((16 * h * w, D))
    counted = of((16 * h * w,), bool)
    axes = jax.eval_shape(samples.axes.function, some, counted)
    bounds = jax.eval_shape(assign.prepare, mixture, axes)
    shares, labels = of((COMPONENTS, h, w)), of((M, h, w), jnp.int32)
    x, used = of((M, h, w, D)), of((M, h, w), bool)
    around, wide = of((h, w, COMPONENTS)), of((h + 4, w, COMPONENTS))
    more = of((M, h + 4, w), jnp.int32)
    search = ((mixture, bounds, shares), x, used, labels)
    programs = {
        "axes": lowered(samples.axes, platform, some, counted),
        "step": lowered(fitting._search, platform, *search),
        "counts": lowered(bands._add, platform, wide, more, None),
        "window": lowered(bands._window, platform, wide, 2.0),
        "weights": lowered(fitting.weigh, platform, mixture, around, 0.5),
    }
    for name, text in programs.items():
        assert not faults(text, platform, M * h * w * COMPONENTS), name
    assert in_chunks(programs["step"], platform)


def _maps(kernel, images):
    return {
        "wide": jax.lax.conv_general_dilated(
            images, kernel, (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    }


def test_batch_scoring_lowers(platform):
    network = backbone.from_function(
        _maps, jnp.zeros((5, 5, 3, D)), name="t", layers=("wide",), image_size=SIZE
    )
    count, entries = math.prod(GRID), 37 * math.prod(GRID)
    mixture = mixture_of(M * count, COMPONENTS)
    local = jax.eval_shape(
        lambda *args: weights.LocalWeights(*args, GRID),
        of((count + 1,), jnp.int32),
        of((entries,), jnp.int32),
        of((entries,)),
    )

    @jax.jit
    def prepare(mixture, log_weights):
        added = scoring.added(mixture, log_weights)
        return scoring.Prepared(scoring.bounds(mixture), added)

    prepared = jax.eval_shape(prepare, mixture, of((COMPONENTS, count)))
    layers = {"wide": Layer(mixture, local, prepared)}
    maps, counted = {"wide": of((M, *GRID))}, of((M, *SIZE), bool)
    programs = {
        "preparation": lowered(prepare, platform, mixture, of((COMPONENTS, count))),
        "maps": lowered(
            jax.jit(inference.run), platform, network, layers, of((M, *SIZE, 3))
        ),
        "scores": lowered(
            inference._summarise, platform, maps, counted, 0.005, 4.0, SIZE
        ),
    }
    for name, text in programs.items():
        assert not faults(text, platform, M * count * COMPONENTS), name
    assert in_chunks(programs["maps"], platform)
    # Where bounds are the costs, a CPU takes one image after the other.
    narrow = mixture_of(M * count, COMPONENTS, d=WHOLE)
    prepared = jax.eval_shape(prepare, narrow, of((COMPONENTS, count)))
    few = of((M, *GRID, WHOLE))
    text = lowered(scoring.log_prob_maps, platform, narrow, prepared, few)
    assert not faults(text, platform, M * count * COMPONENTS)
    assert in_chunks(text, platform) == (platform != "cpu")


def test_alignment_lowers(platform):
    planned = plan.Plan(
        motion="homography",
        error=robust.find("lorentzian"),
        scheme=pyramid.find("farid5"),
        coarse=True,
        options=plan.DEFAULTS,
        shapes=(FRAME, PHOTO),
    )
    reference, images = of((*FRAME, 3)), of((IMAGES, *PHOTO, 3))
    programs = {
        "motions": lowered(
            registration._register,
            platform,
            reference,
            of(FRAME, bool),
            images,
            planned,
        ),
        "warped": lowered(align.warp, platform, of((*PHOTO, 3)), of((3, 3)), FRAME),
    }
    # Images are refined one after the other, and turned when they are small.
    most = plan.DEFAULTS.num_angles * math.prod(PHOTO)
    for name, text in programs.items():
        assert not faults(text, platform, most), name
