"""A literal twin of one inverse compositional step, in NumPy loops and float64.

Transcribed from the equations of Briand, Facciolo, Sanchez (IPOL 2018) and of Keys
(1981). It never imports the package.
"""

import math

import numpy as np

FILTERS = {  # smoothing k, derivative d, position of the first tap, shift of the grid
    "central": ([1.0], [-0.5, 0.0, 0.5], 0.0),
    "hypomode": ([0.5, 0.5], [-1.0, 1.0], 0.5),
    "farid3": ([0.229879, 0.540242, 0.229879], [-0.425287, 0.0, 0.425287], 0.0),
    "farid5": (
        [0.037659, 0.249153, 0.426375, 0.249153, 0.037659],
        [-0.109604, -0.276691, 0.0, 0.276691, 0.109604],
        0.0,
    ),
}


def weight(name, s2, scale):
    """The derivative of the error function by the squared difference."""
    if name == "quadratic":
        return 1.0
    if name == "truncated_quadratic":
        return 1.0 if s2 < scale**2 else 0.0
    if name == "geman_mcclure":
        return scale**2 / (s2 + scale**2) ** 2
    if name == "lorentzian":
        return 1 / (s2 + scale**2)
    return 1 / math.sqrt(s2 + scale**2)


def motion_jacobian(motion, x, y):
    """Derivative of the moved point by the parameters."""
    if motion == "translation":
        return np.array([[1, 0], [0, 1]], float)
    if motion == "euclidean":
        return np.array([[1, 0, -y], [0, 1, x]], float)
    if motion == "similarity":
        return np.array([[1, 0, x, -y], [0, 1, y, x]], float)
    affine = [[1, 0, x, y, 0, 0], [0, 1, 0, 0, x, y]]
    if motion == "affine":
        return np.array(affine, float)
    return np.array([affine[0] + [-x * x, -x * y], affine[1] + [-x * y, -y * y]], float)


def motion_matrix(motion, p):
    """The motion with the parameters of an increment."""
    if motion == "translation":
        return np.array([[1, 0, p[0]], [0, 1, p[1]], [0, 0, 1]])
    if motion == "euclidean":
        c, s = math.cos(p[2]), math.sin(p[2])
        return np.array([[c, -s, p[0]], [s, c, p[1]], [0, 0, 1]])
    if motion == "similarity":
        a, b = p[2:]
        return np.array([[1 + a, -b, p[0]], [b, 1 + a, p[1]], [0, 0, 1]])
    last = [0, 0, 1] if motion == "affine" else [p[6], p[7], 1]
    return np.array([[1 + p[2], p[3], p[0]], [p[4], 1 + p[5], p[1]], last])


def pixel(image, row, column):
    h, w = image.shape
    return image[min(max(row, 0), h - 1), min(max(column, 0), w - 1)]


def filtered(image, rows, columns, row, column):
    """Correlation with a separable filter at one pixel, borders repeated."""
    top, left = (len(rows) - 1) // 2, (len(columns) - 1) // 2
    return sum(
        a * b * pixel(image, row + i - top, column + j - left)
        for i, a in enumerate(rows)
        for j, b in enumerate(columns)
    )


def smoothed(image, gradient):
    k = FILTERS[gradient][0]
    h, w = image.shape
    return np.array([[filtered(image, k, k, r, c) for c in range(w)] for r in range(h)])


def keys(t):
    """Keys' cubic convolution kernel with a = -1/2."""
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    if t < 2:
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return 0.0


def interpolate(image, x, y):
    """Cubic convolution at one point."""
    row, column = math.floor(y), math.floor(x)
    return sum(
        keys(y - r) * keys(x - c) * pixel(image, r, c)
        for r in range(row - 1, row + 3)
        for c in range(column - 1, column + 3)
    )


def step(reference, image, T, *, motion, error, gradient, border, scale):
    """One iteration; ``T`` maps pixels to pixels. Returns the next ``T``."""
    k, d, shift = FILTERS[gradient]
    h, w = reference.shape
    centre, unit = np.array([(w - 1) / 2, (h - 1) / 2]), max(h, w) / 2
    N = np.array([[1, 0, -centre[0]], [0, 1, -centre[1]], [0, 0, unit]]) / unit
    smooth_image = smoothed(image, gradient)
    rows = []
    for row in range(border, h - border):
        for column in range(border, w - border):
            X = np.array([column + shift, row + shift, 1])
            X_moved = T @ X
            x, y = X_moved[:2] / X_moved[2] - shift
            image_h, image_w = image.shape
            if not (border <= x <= image_w - 1 - border):
                continue
            if not (border <= y <= image_h - 1 - border):
                continue
            by_x = filtered(reference, k, d, row, column)
            by_y = filtered(reference, d, k, row, column)
            value = filtered(reference, k, k, row, column)
            D = interpolate(smooth_image, x, y) - value
            u, v = (X[:2] - centre) / unit
            J = np.array([by_x, by_y]) * unit @ motion_jacobian(motion, u, v)
            rows.append((D, J))
    scale = max(scale, 5.0, 3.0 * np.mean([abs(D) for D, _ in rows]))
    H, b = 0, 0
    for D, J in rows:
        rho = weight(error, D * D, scale)
        H = H + rho * np.outer(J, J)
        b = b + rho * J * D
    ridge = 1e-6 * np.trace(H) / len(b)
    p = np.linalg.solve(H + ridge * np.eye(len(b)), b)
    T_unit = N @ T @ np.linalg.inv(N) @ np.linalg.inv(motion_matrix(motion, p))
    T_next = np.linalg.inv(N) @ T_unit @ N
    return T_next / T_next[2, 2]
