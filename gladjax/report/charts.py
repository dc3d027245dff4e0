"""Curves and bars as SVG, drawn by hand: no library, no script.

Notation: a chart maps ``(x, y)`` in its own units to pixels of a box with margins.

Differs from the reference in: there is none.

Reference: Scalable Vector Graphics 2, W3C.
"""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40
NORMAL, ANOMALOUS, NEUTRAL, MARK = "#4477aa", "#cc3311", "#777777", "#111111"

Number = int | float
Range = tuple[Number, Number]
Vector = Float[np.ndarray, " _n"]


class _Frame:
    """Axes of a chart, and what is drawn inside of them."""

    def __init__(self, x: Range, y: Range, labels: tuple[str, str]) -> None:
        self._x, self._y = _open(x), _open(y)
        self._parts: list[str] = []
        self._axes(labels)

    def place(self, x: Number, y: Number) -> tuple[float, float]:
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 2),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 2),
        )

    def rectangle(self, x: Range, y: Range, colour: str, opacity: float) -> None:
        (a, b), (c, d) = self.place(x[0], y[1]), self.place(x[1], y[0])
        self._parts.append(
            f'<rect x="{a}" y="{b}" width="{max(c - a, 0.5):.2f}" '
            f'height="{max(d - b, 0):.2f}" fill="{colour}" fill-opacity="{opacity}"/>'
        )

    def line(
        self, xs: Vector, ys: Vector, colour: str, *, dashed: bool = False
    ) -> None:
        points = " ".join(
            f"{a},{b}" for a, b in (self.place(*p) for p in zip(xs, ys, strict=True))
        )
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" '
            f'stroke-width="1.6"{dash}/>'
        )

    def text(self, x: Number, y: Number, words: str, *, anchor: str = "start") -> None:
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{html.escape(words)}</text>"
        )

    def dot(self, x: Number, y: Number, colour: str) -> None:
        a, b = self.place(x, y)
        self._parts.append(f'<circle cx="{a}" cy="{b}" r="4" fill="{colour}"/>')

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        for i, (words, colour) in enumerate(entries):
            y = TOP + 12 + 16 * i
            self._parts.append(
                f'<rect x="{WIDTH - 190}" y="{y - 9}" width="10" height="10" '
                f'fill="{colour}"/>'
            )
            self.text(WIDTH - 174, y, words)

    def _axes(self, labels: tuple[str, str]) -> None:
        low, high = HEIGHT - BOTTOM, WIDTH - RIGHT
        self._parts.append(
            f'<path d="M{LEFT} {TOP}V{low}H{high}" fill="none" stroke="#999"/>'
        )
        for value in ticks(self._x):
            at = self.place(value, self._y[0])[0]
            self.text(at, low + 16, f"{value:g}", anchor="middle")
        for value in ticks(self._y):
            at = self.place(self._x[0], value)[1]
            self.text(LEFT - 6, at + 4, f"{value:g}", anchor="end")
        self.text((LEFT + high) / 2, HEIGHT - 6, labels[0], anchor="middle")
        self.text(LEFT + 6, TOP + 4, labels[1])

    def svg(self, name: str) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img" '
            f'aria-label="{html.escape(name, quote=True)}">' + "".join(self._parts)
        ) + "</svg>"


def _open(span: Range) -> tuple[float, float]:
    """Returns a range that is not empty."""
    low, high = float(span[0]), float(span[1])
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def ticks(span: Range, *, number: int = 5) -> list[float]:
    """Returns round values inside a range.

    Args:
      span: The range.
      number: About how many.

    Example:
      >>> ticks((0.0, 1.0))
      [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    low, high = _open(span)
    raw = (high - low) / number
    size = 10.0 ** math.floor(math.log10(raw))
    step = next((size * m for m in (1, 2, 5, 10) if size * m >= raw * 0.999), raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def histogram(
    groups: Mapping[str, Vector],
    *,
    threshold: float | None = None,
    bins: int = 40,
    labels: tuple[str, str] = ("score", "images"),
) -> str:
    """Returns the histogram of scores, one colour per group.

    Args:
      groups: Scores by name: the first one is blue, the second red.
      threshold: A vertical line; none if it is None.
      bins: Number of bins.
      labels: What stands below, and what beside.
    """
    finite = [np.asarray(v)[np.isfinite(v)] for v in groups.values()]
    every = np.concatenate([*finite, [threshold] if threshold is not None else []])
    low, high = _open((every.min(), every.max()) if every.size else (0.0, 1.0))
    edges = np.linspace(low, high, bins + 1)
    counts = [np.histogram(v, edges)[0] for v in finite]
    top = max([1, *(int(c.max()) for c in counts if c.size)])
    frame = _Frame((low, high), (0.0, top * 1.05), labels)
    colours = (NORMAL, ANOMALOUS, NEUTRAL)
    for count, colour in zip(counts, colours, strict=False):
        for number, left, right in zip(count, edges[:-1], edges[1:], strict=True):
            if number:
                frame.rectangle((left, right), (0.0, float(number)), colour, 0.6)
    legend = [
        (f"{name} ({len(v)})", colour)
        for (name, v), colour in zip(groups.items(), colours, strict=False)
    ]
    if threshold is not None:
        ends = np.array([threshold, threshold], np.float64)
        frame.line(ends, np.array([0.0, top * 1.05]), MARK, dashed=True)
        legend.append((f"threshold {threshold:.4g}", MARK))
    frame.legend(legend)
    return frame.svg(f"histogram of {labels[0]}")


def roc(false: Vector, true: Vector, area: float) -> str:
    """Returns the ROC curve.

    Args:
      false: False-positive rates, rising.
      true: True-positive rates.
      area: The area under the curve.
    """
    frame = _Frame(
        (0.0, 1.0), (0.0, 1.0), ("false-positive rate", "true-positive rate")
    )
    frame.line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), NEUTRAL, dashed=True)
    frame.line(np.asarray(false), np.asarray(true), ANOMALOUS)
    frame.text(WIDTH - 190, HEIGHT - BOTTOM - 20, f"image AUROC {area:.4f}")
    return frame.svg("ROC curve")


def curve(values: Vector, labels: tuple[str, str]) -> str:
    """Returns values one after another, above 0.

    Args:
      values: At least one, not negative.
      labels: What stands below, and what beside.
    """
    values = np.asarray(values, np.float64)
    frame = _Frame((0, len(values)), (0, 1.1 * float(values.max())), labels)
    frame.line(np.arange(1, len(values) + 1, dtype=np.float64), values, NORMAL)
    return frame.svg(labels[1])


def decay(
    weights: Mapping[str, Vector], *, marks: Mapping[str, int] | None = None
) -> str:
    """Returns the global weights of every layer, falling (the paper's Fig. 4).

    Args:
      weights: Weights by layer, none of them 0.
      marks: By layer the component that a dot marks, counted along the fall; a number
        past the end marks nothing.
    """
    falling = {name: -np.sort(-np.asarray(v)) for name, v in weights.items()}
    most = max((len(v) for v in falling.values()), default=1)
    logs = {name: np.log10(np.maximum(v, 1e-12)) for name, v in falling.items()}
    low = min((float(v.min()) for v in logs.values() if v.size), default=-1.0)
    frame = _Frame((0.0, float(most)), (low, 0.0), ("component", "log10 of its weight"))
    colours = (NORMAL, ANOMALOUS, "#228833", "#aa3377", NEUTRAL)
    legend = []
    for i, (name, values) in enumerate(logs.items()):
        colour = colours[i % len(colours)]
        frame.line(np.arange(len(values), dtype=np.float64), values, colour)
        legend.append((f"{name}: {len(values)}", colour))
        marked = (marks or {}).get(name, len(values))
        if marked < len(values):
            frame.dot(marked, float(values[marked]), colour)
    frame.legend(legend)
    return frame.svg("decay of the global weights")


def bars(values: Mapping[str, float], unit: str) -> str:
    """Returns horizontal bars, one for each name.

    Args:
      values: Lengths by name, 0 or more.
      unit: Printed behind every number.
    """
    longest = max([*values.values(), 1e-12])
    height = 22 * len(values) + 8
    parts = []
    for i, (name, value) in enumerate(values.items()):
        y, length = 22 * i + 6, 300 * value / longest
        parts.append(
            f'<text x="170" y="{y + 12}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="178" y="{y}" width="{max(length, 1):.1f}" height="15" '
            f'fill="{NORMAL}"/><text x="{184 + length:.1f}" y="{y + 12}">'
            f"{value:.3g} {html.escape(unit)}</text>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="times">'
        + "".join(parts)
        + "</svg>"
    )
