"""Slow, literal twins of the baselines: loops in NumPy, nothing from the package.

Feature maps are dictionaries of arrays (n, h, w, d), finest first; everything is
computed in float64.
"""

import numpy as np
from scipy import ndimage


def upsample_nearest(x, size):
    """Each target cell takes floor(i * h / H)."""
    h, w, _ = x.shape
    out = np.zeros((*size, x.shape[-1]))
    for i in range(size[0]):
        for j in range(size[1]):
            out[i, j] = x[i * h // size[0], j * w // size[1]]
    return out


def upsample_bilinear(x, size):
    """Half-pixel centres, the border repeated."""
    h, w = x.shape[:2]
    out = np.zeros((*size, *x.shape[2:]))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * h / size[0] - 0.5, 0), h - 1)
            z = min(max((j + 0.5) * w / size[1] - 0.5, 0), w - 1)
            a, b = int(y), int(z)
            c, d = min(a + 1, h - 1), min(b + 1, w - 1)
            p, q = y - a, z - b
            top = (1 - q) * x[a, b] + q * x[a, d]
            bottom = (1 - q) * x[c, b] + q * x[c, d]
            out[i, j] = (1 - p) * top + p * bottom
    return out


def heat(x, size, sigma):
    """Bilinear resizing, then a Gaussian truncated at four sigma, mirrored border."""
    big = upsample_bilinear(x, size)
    return ndimage.gaussian_filter(big, sigma, mode="mirror") if sigma else big


def pool3(x):
    """Averages 3 x 3 neighbourhoods; what is outside counts as zero."""
    h, w, d = x.shape
    out = np.zeros((h, w, d))
    for i in range(h):
        for j in range(w):
            for y in range(max(i - 1, 0), min(i + 2, h)):
                for z in range(max(j - 1, 0), min(j + 2, w)):
                    out[i, j] += x[y, z] / 9
    return out


def padim(train, test, dims, regularization, size, sigma):
    """Maps and scores of PaDiM; ``dims`` number the concatenated features."""
    names = list(train)
    grid = train[names[0]].shape[1:3]

    def embed(maps, n):
        parts = [upsample_nearest(maps[k][n].astype(float), grid) for k in names]
        return np.concatenate(parts, axis=-1)[..., dims]

    z = np.stack([embed(train, n) for n in range(len(train[names[0]]))])
    x = np.stack([embed(test, n) for n in range(len(test[names[0]]))])
    maps = []
    for image in x:
        grid_map = np.zeros(grid)
        for i in range(grid[0]):
            for j in range(grid[1]):
                mean = z[:, i, j].mean(axis=0)
                S = np.cov(z[:, i, j].T, ddof=1).reshape(len(dims), len(dims))
                S = S + regularization * np.eye(len(dims))
                e = image[i, j] - mean
                grid_map[i, j] = np.sqrt(e @ np.linalg.solve(S, e))
        maps.append(heat(grid_map, size, sigma))
    return np.stack(maps), np.array([m.max() for m in maps])


def patches(maps, n):
    """PatchCore's patches of one image."""
    names = list(maps)
    size = maps[names[0]].shape[1:3]
    parts = [upsample_bilinear(pool3(maps[k][n].astype(float)), size) for k in names]
    return np.concatenate(parts, axis=-1)


def patchcore(train, test, rows, num_neighbors, size, sigma):
    """Maps and scores of PatchCore; ``rows`` number the training patches."""
    names = list(train)
    d = sum(train[k].shape[-1] for k in names)
    every = np.stack([patches(train, n) for n in range(len(train[names[0]]))])
    bank = every.reshape(-1, d)[rows]
    maps, scores = [], []
    for n in range(len(test[names[0]])):
        x = patches(test, n)
        near = np.zeros(x.shape[:2], int)
        grid_map = np.zeros(x.shape[:2])
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                far = [np.linalg.norm(x[i, j] - c) for c in bank]
                near[i, j], grid_map[i, j] = int(np.argmin(far)), min(far)
        worst = np.unravel_index(np.argmax(grid_map), grid_map.shape)
        star = bank[near[worst]]
        order = np.argsort([np.linalg.norm(star - c) for c in bank], kind="stable")
        total = 0.0
        for row in order[:num_neighbors]:
            total += np.exp(np.linalg.norm(x[worst] - bank[row]))
        weight = 1 - np.exp(np.linalg.norm(x[worst] - star)) / total
        scores.append(weight * grid_map[worst])
        maps.append(heat(grid_map, size, sigma))
    return np.stack(maps), np.array(scores)


def spade(train, test, num_images, num_cells, size, sigma):
    """Maps and scores of SPADE on the finest grid."""
    names = list(train)
    grid = train[names[0]].shape[1:3]

    def embed(maps, n):
        parts = [upsample_bilinear(maps[k][n].astype(float), grid) for k in names]
        return np.concatenate(parts, axis=-1)

    pooled = [x.astype(float).mean(axis=(0, 1)) for x in train[names[-1]]]
    maps, scores = [], []
    for n in range(len(test[names[0]])):
        g = test[names[-1]][n].astype(float).mean(axis=(0, 1))
        far = np.array([np.linalg.norm(g - other) for other in pooled])
        near = np.argsort(far, kind="stable")[:num_images]
        scores.append(far[near].mean())
        gallery = []
        for image in near:
            gallery.extend(embed(train, image).reshape(grid[0] * grid[1], -1))
        x = embed(test, n)
        grid_map = np.zeros(grid)
        for i in range(grid[0]):
            for j in range(grid[1]):
                gaps = sorted(np.linalg.norm(x[i, j] - c) for c in gallery)
                grid_map[i, j] = np.mean(gaps[:num_cells])
        maps.append(heat(grid_map, size, sigma))
    return np.stack(maps), np.array(scores)


def greedy_coreset(points, num_centers, first):
    """Chooses the farthest point again and again."""
    chosen = [first]
    while len(chosen) < num_centers:
        gaps = [
            -1.0 if i in chosen else min(np.sum((p - points[c]) ** 2) for c in chosen)
            for i, p in enumerate(points)
        ]
        chosen.append(int(np.argmax(gaps)))
    return chosen


def auroc(normal, anomalous):
    """Share of pairs in the right order, ties counting half."""
    anomalous, normal = np.asarray(anomalous).tolist(), np.asarray(normal).tolist()
    wins = [(a > b) + 0.5 * (a == b) for a in anomalous for b in normal]
    return float(np.mean(wins))
