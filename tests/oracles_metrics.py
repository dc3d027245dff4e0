"""Literal twins of the metrics: every threshold, every pixel, no cleverness.

This module never imports gladjax.
"""

import itertools

import numpy as np


def auroc(labels, scores):
    """The share of (anomalous, normal) pairs in the right order, ties counted half."""
    wins, pairs = 0.0, 0
    for label, score in zip(labels, scores, strict=True):
        if label == 1:
            for other_label, other in zip(labels, scores, strict=True):
                if other_label == 0:
                    pairs += 1
                    wins += 1.0 if score > other else 0.5 if score == other else 0.0
    return wins / pairs


def regions(mask):
    """The 8-connected regions, each a list of pixels, by flooding."""
    height, width = mask.shape
    seen, found = set(), []
    for start in zip(*np.nonzero(mask), strict=True):
        if start in seen:
            continue
        seen.add(start)
        region, stack = [], [start]
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            for j in range(max(y - 1, 0), min(y + 2, height)):
                for i in range(max(x - 1, 0), min(x + 2, width)):
                    if mask[j, i] and (j, i) not in seen:
                        seen.add((j, i))
                        stack.append((j, i))
        found.append(region)
    return found


def aupro(masks, maps, max_fpr):
    """The per-region overlap at every threshold, then trapezoids up to the limit."""
    everything = [
        (m, pixels) for m, mask in enumerate(masks) for pixels in regions(mask)
    ]
    normal = np.concatenate([s[~mask] for mask, s in zip(masks, maps, strict=True)])
    points = [(0.0, 0.0)]
    for level in sorted(set(np.concatenate([s.ravel() for s in maps])), reverse=True):
        fpr = np.mean(normal >= level)
        overlaps = [np.mean([maps[m][p] >= level for p in px]) for m, px in everything]
        points.append((fpr, np.mean(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 <= max_fpr:
            area += (x1 - x0) * (y0 + y1) / 2
        elif x0 < max_fpr:
            y = y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
            area += (max_fpr - x0) * (y0 + y) / 2
    return area / max_fpr
