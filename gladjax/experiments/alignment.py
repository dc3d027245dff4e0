"""How exact alignment is, and how far it reaches.

    python -m gladjax.experiments.alignment --data-root DIR --output OUT

Three studies, about twenty minutes on two cores: (1) synthetic motions of photographs
(turn up to 5 degrees, shift up to 10 pixels at 320 x 320) with noise in both images and
with a tenth of the pixels under an occluder, mean end-point error per motion and error
function; (2) screws turned by any angle and shifted up to 8 %, against the registration
of the unturned image; (3) motions of misplaced transistors against those of the
training images. Expected: below 0.05 pixel without noise for Euclidean motions, below
0.3 for robust functions with the occluder; at least 97 % of the screws within 2 pixels.
"""

import functools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Float

from gladjax import align, files, images
from gladjax.align import robust, transform
from gladjax.datasets import randomised

SIDE = 320
NOISES = (0.0, 5.0, 20.0)
Image = Float[np.ndarray, "h w"]
_SPREAD = {"shift": 10.0, "angle": math.radians(5), "linear": 0.05, "tilt": 1e-4}


def random_motion(rng: np.random.Generator, motion: str, side: int) -> np.ndarray:
    """Returns a moderate random motion about the centre of a square image."""
    A = np.eye(3)
    A[:2, 2] = rng.uniform(-1, 1, 2) * _SPREAD["shift"] * side / SIDE
    angle, scale = rng.uniform(-1, 1, 2) * (_SPREAD["angle"], _SPREAD["linear"])
    linear, tilt = rng.uniform(-1, 1, (2, 2)), rng.uniform(-1, 1, 2)
    if motion != "translation":
        cos, sin = math.cos(angle), math.sin(angle)
        A[:2, :2] = [[cos, -sin], [sin, cos]]
    if motion == "similarity":
        A[:2, :2] *= 1 + scale
    if motion in ("affine", "homography"):
        A[:2, :2] = A[:2, :2] @ (np.eye(2) + _SPREAD["linear"] * linear)
    if motion == "homography":
        A[2, :2] = _SPREAD["tilt"] * tilt * SIDE / side
    centre = (side - 1) / 2
    C = np.array([[1, 0, centre], [0, 1, centre], [0, 0, 1]])
    T = C @ A @ np.linalg.inv(C)
    return T / T[2, 2]


def render(source: np.ndarray, T: np.ndarray, side: int) -> tuple[Image, Image]:
    """Returns a reference and its moved image, both drawn from one larger photograph.

    Args:
      source: Grey photograph or channels last.
      T: The motion; ``image(T p) = reference(p)``.
      side: Height and width of both.

    Returns:
      Both images, interpolated by splines of order five, so that the interpolation of
      the algorithm is not the one that made its data.
    """
    grey = source.reshape(*source.shape[:2], -1).astype(float).mean(axis=-1)
    factor = min(grey.shape) / (1.3 * side)
    if factor > 1:
        grey = scipy.ndimage.gaussian_filter(grey, 0.5 * math.sqrt(factor**2 - 1))
    rows, columns = len(grey), len(grey[0])
    offset = np.array([rows - side * factor, columns - side * factor]) / 2
    y, x = np.mgrid[:side, :side].astype(float)

    def draw(M: np.ndarray) -> Image:
        u, v, depth = np.einsum("ij,jhw->ihw", M, np.stack([x, y, np.ones_like(x)]))
        places = [v / depth * factor + offset[0], u / depth * factor + offset[1]]
        drawn = scipy.ndimage.map_coordinates(grey, places, order=5, mode="nearest")
        return drawn.astype(np.float32)

    return draw(np.eye(3)), draw(np.linalg.inv(T))


def occlude(rng: np.random.Generator, image: Image, other: np.ndarray) -> Image:
    """Returns an image with a tenth of its pixels covered by a square of another."""
    side = min(image.shape)
    size = round(side * math.sqrt(0.1))
    y, x = rng.integers(0, side - size, 2)
    covered = image.copy()
    covered[y : y + size, x : x + size] = other[:size, :size]
    return covered


def photographs(data_root: pathlib.Path | None) -> dict[str, np.ndarray]:
    """Returns scikit-image's bundled photographs and, where at hand, two products."""
    from skimage import data  # A development dependency, needed by this study alone.

    names = ("camera", "astronaut", "coffee", "chelsea")
    found = {name: np.asarray(getattr(data, name)()) for name in names}
    for name in ("transistor", "screw"):
        file = data_root and data_root / name / "train" / "good" / "000.png"
        if file and file.is_file():
            found[name] = np.asarray(images.read(file))
    return found


def end_point_errors(
    sources: dict[str, np.ndarray], *, side: int = SIDE, trials: int = 2
) -> Iterator[dict[str, Any]]:
    """Yields a record for each motion, error function, noise and occluder.

    Args:
      sources: Photographs by name.
      side: Height and width of the images.
      trials: Random motions per photograph.

    Yields:
      Mean, median and largest end-point error in pixels over photographs and trials,
      and how many registrations succeeded.
    """
    names = list(sources)
    for motion in transform.MOTIONS:
        rng = np.random.default_rng(0)
        cases = []
        for i, name in enumerate(names):
            other = render(sources[names[i - 1]], np.eye(3), side)[0][side // 3 :]
            for _ in range(trials):
                T = random_motion(rng, motion, side)
                reference, image = render(sources[name], T, side)
                hidden = occlude(rng, image, other[:, side // 3 :])
                noise = rng.normal(size=(2, side, side)).astype(np.float32)
                cases.append((T, reference, (image, hidden), noise))
        for error in robust.ERRORS:
            for occluder in (0, 1):
                for sigma in NOISES:
                    yield _record(cases, motion, error, occluder, sigma)


def _record(
    cases: list[Any], motion: str, error: str, occluder: int, sigma: float
) -> dict[str, Any]:
    """Returns one row of the table."""
    errors, successes = [], 0
    for T, reference, pair, noise in cases:
        found, info = align.register(
            reference + sigma * noise[0],
            pair[occluder] + sigma * noise[1],
            motion=motion,
            robust=error,
        )
        truth = jnp.asarray(T, jnp.float32)
        errors.append(float(align.end_point_error(found, truth, reference.shape)))
        successes += bool(info.success)
    return {
        "motion": motion,
        "error": error,
        "noise": sigma,
        "occluder": 0.1 * occluder,
        "mean": float(np.mean(errors)),
        "max": float(np.max(errors)),
        "success": successes,
        "registrations": len(cases),
    }


def load(
    folder: pathlib.Path, *, number: int | None = None, side: int = 256
) -> np.ndarray:
    """Returns images of a folder, in order, resized to a square.

    Raises:
      ValueError: If the folder has no PNG files; the message names it.
    """
    paths = sorted(folder.glob("*.png"))[:number]
    if not paths:
        raise ValueError(f"{folder}: no PNG files; check --data-root")
    return np.stack([images.resize(images.read(path), side) for path in paths])


def any_rotation(
    screws: np.ndarray, *, seed: int = 0, max_shift: float = 0.08
) -> dict[str, Any]:
    """Returns how well screws are found at any angle.

    Args:
      screws: Images, all of one size.
      seed: Seed of the motions and of the choice of the reference.
      max_shift: Largest shift as a fraction of the side.

    Returns:
      The share of images whose registration, undone by the known motion, is within 2
      pixels of the registration of the image itself, and the same for the images
      whose object stays clear of the border.
    """
    key = jax.random.key(seed)
    find = functools.partial(align.register_batch, coarse=True)
    shape = screws.shape[1:3]
    by_reference, by_motion = jax.random.split(key)
    index = align.choose_reference(by_reference, screws, coarse=True)
    moved, R = randomised.version(by_motion, screws, max_shift=max_shift)
    itself, info = find(screws[index], screws)
    turned, info_moved = find(screws[index], moved)
    compare = jax.vmap(lambda a, b: align.end_point_error(a, b, shape))
    errors = np.asarray(compare(itself, jnp.matmul(R, turned, precision="highest")))
    clear = np.array([_clear_of_border(image) for image in np.asarray(moved)])
    return {
        "reference": index,
        "images": len(errors),
        "within_2_pixels": float(np.mean(errors < 2)),
        "within_1_pixel": float(np.mean(errors < 1)),
        "median": float(np.median(errors)),
        "clear_of_border": int(clear.sum()),
        "within_2_pixels_if_clear": float(np.mean(errors[clear] < 2)),
        "success": float(np.mean(info.success)),
        "success_moved": float(np.mean(info_moved.success)),
        "errors_above_2": {str(i): float(errors[i]) for i in np.where(errors >= 2)[0]},
    }


def _clear_of_border(image: np.ndarray) -> bool:
    """Returns whether nothing dark touches the border of a moved screw."""
    grey = image.mean(axis=-1)
    ring = np.concatenate(
        [grey[:2].ravel(), grey[-2:].ravel(), grey[:, [0, 1, -2, -1]].ravel()]
    )
    return bool(ring.min() > 0.6 * np.median(ring))


def misplaced(root: pathlib.Path) -> dict[str, Any]:
    """Returns which transistors have motions outside those of the training images.

    Args:
      root: Folder of the category.

    Returns:
      For each kind of test image, how many were registered, failed, or were reported
      as implausible.
    """
    train = load(root / "train" / "good")
    index = align.choose_reference(jax.random.key(0), train)
    motions, info = align.register_batch(train[index], train)
    kept = np.asarray(motions)[np.asarray(info.success)]
    known = align.motion_range(kept, shape=train.shape[1:3])
    report = {}
    for folder in sorted(path for path in (root / "test").iterdir() if path.is_dir()):
        test = load(folder)
        found, info = align.register_batch(train[index], test)
        judged = jax.vmap(functools.partial(align.judge, known))(found, info)
        report[folder.name] = {
            "images": len(test),
            "failed": int(np.sum(~np.asarray(judged.success))),
            "implausible": int(np.sum(np.asarray(judged.implausible))),
        }
    return report


@click.command()
@click.option("--data-root", type=click.Path(path_type=pathlib.Path), default=None)
@click.option("--output", type=click.Path(path_type=pathlib.Path), required=True)
@click.option("--trials", default=2, show_default=True)
@click.option("--num-screws", default=200, show_default=True)
def main(
    data_root: pathlib.Path | None, output: pathlib.Path, trials: int, num_screws: int
) -> None:
    """Runs the studies and writes ``results.json``."""
    output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"end_point_error": []}
    for record in end_point_errors(photographs(data_root), trials=trials):
        results["end_point_error"].append(record)
        click.echo(
            "{motion:12s}{error:20s} noise {noise:4.0f} occluder {occluder:.1f}  "
            "mean {mean:.3f}  max {max:.3f}  success {success}/{registrations}".format(
                **record
            )
        )
    if data_root is not None:
        screws = load(data_root / "screw" / "train" / "good", number=num_screws)
        results["any_rotation"] = any_rotation(screws)
        click.echo(json.dumps(results["any_rotation"]))
        results["misplaced"] = misplaced(data_root / "transistor")
        click.echo(json.dumps(results["misplaced"]))
    files.write_json(output / "results.json", results)


if __name__ == "__main__":
    main()
