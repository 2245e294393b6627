"""Draws digits: 28x28 grey images of the ten digits as uneven pen strokes, turned, stretched, on a cluttered, noisy ground,
with parts missing.

Everything is drawn by the code below from a seed; there is no data set behind it.
"""

import numpy as np

EDGE_PIXELS = 28
CLASSES = [str(digit) for digit in range(10)]


def arc(centre_x, centre_y, radius_x, radius_y, first_degrees, last_degrees, points=14):
    """Points on an ellipse, y downwards, angles clockwise from the right."""
    angle = np.radians(np.linspace(first_degrees, last_degrees, points))
    return np.stack([centre_x + radius_x * np.cos(angle), centre_y + radius_y * np.sin(angle)], axis=1)


def line(*points):
    """Straight strokes, with points in between so that bending bends them too."""
    points = np.array(points, dtype=np.float64)
    steps = np.linspace(0.0, 1.0, 5)[:-1, None]
    pieces = [begin + steps * (end - begin) for begin, end in zip(points, points[1:])]
    return np.concatenate([*pieces, points[-1:]])


# Strokes of each digit in a unit square.
STROKES = [
    [arc(0.5, 0.5, 0.26, 0.4, -90, 270, 24)],
    [line((0.32, 0.3), (0.54, 0.1), (0.54, 0.9))],
    [np.concatenate([arc(0.5, 0.33, 0.25, 0.23, -170, 40), line((0.62, 0.55), (0.24, 0.9), (0.78, 0.9))])],
    [np.concatenate([arc(0.46, 0.3, 0.24, 0.2, -160, 90), arc(0.46, 0.7, 0.28, 0.21, -90, 150)])],
    [line((0.62, 0.92), (0.62, 0.1), (0.2, 0.64), (0.82, 0.64))],
    [np.concatenate([line((0.74, 0.1), (0.32, 0.1), (0.29, 0.46)), arc(0.48, 0.65, 0.26, 0.25, -125, 150)])],
    [np.concatenate([line((0.66, 0.1), (0.42, 0.3), (0.27, 0.62)), arc(0.5, 0.67, 0.23, 0.22, -180, 175, 20)])],
    [line((0.22, 0.1), (0.78, 0.1), (0.42, 0.9))],
    [arc(0.5, 0.3, 0.21, 0.19, -90, 270, 20), arc(0.5, 0.7, 0.25, 0.21, -90, 270, 20)],
    [np.concatenate([arc(0.5, 0.33, 0.23, 0.22, 5, 360, 20), line((0.73, 0.38), (0.58, 0.7), (0.4, 0.92))])],
]


def distance_to(points, pixels):
    """Distance of each pixel to a run of straight pieces."""
    begin, step = points[:-1], np.diff(points, axis=0)
    squared = np.maximum((step**2).sum(axis=1), 1e-9)
    offset = pixels[:, None, :] - begin
    along = np.clip((offset * step).sum(axis=2) / squared, 0.0, 1.0)
    nearest = offset - along[:, :, None] * step
    return np.sqrt((nearest**2).sum(axis=2).min(axis=1))


def draw(digit, generator):
    """One image, `[28, 28]` uint8."""
    grid = (np.arange(EDGE_PIXELS) + 0.5) / EDGE_PIXELS
    pixels = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    angle = np.radians(generator.uniform(-35, 35))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, generator.uniform(-0.4, 0.4)], [0.0, 1.0]])
    form = turn @ shear @ np.diag(generator.uniform(0.5, 1.0, 2))
    shift = 0.5 + generator.uniform(-0.14, 0.14, 2)
    phase, strength = generator.uniform(0, 2 * np.pi, (2, 2)), generator.uniform(0.0, 0.075, (2, 2))
    width = generator.uniform(0.025, 0.065)
    softness = generator.uniform(0.02, 0.05)

    def ink(points):
        return np.clip((width - distance_to(points, pixels)) / softness + 0.5, 0.0, 1.0)

    image = np.zeros(len(pixels))
    for stroke in STROKES[digit]:
        bent = stroke + sum(
            strength[axis] * np.sin(5.0 * stroke[:, axis : axis + 1] + phase[axis]) for axis in range(2)
        )
        image = np.maximum(image, ink((bent - 0.5) @ form.T + shift))
    if digit == 7 and generator.random() < 0.4:
        image = np.maximum(image, ink((line((0.4, 0.5), (0.7, 0.5)) - 0.5) @ form.T + shift))
    # A strip of the digit is missing now and then.
    if generator.random() < 0.3:
        across = pixels[:, generator.integers(0, 2)]
        begin = generator.uniform(0.15, 0.75)
        image[(across > begin) & (across < begin + 0.1)] = 0.0
    for _ in range(generator.integers(0, 5)):
        middle, reach = generator.uniform(0, 1, 2), generator.uniform(-0.25, 0.25, 2)
        away = distance_to(np.stack([middle - reach, middle + reach]), pixels)
        scratch = np.clip((width * 0.8 - away) / softness + 0.5, 0.0, 1.0)
        image = np.maximum(image, scratch * generator.uniform(0.3, 0.9))
    dark = generator.uniform(0, 120)
    bright = dark + generator.uniform(60, 130)
    slope = (pixels - 0.5) @ generator.uniform(-60, 60, 2)
    image = dark + (bright - dark) * image + slope + generator.normal(0, generator.uniform(2, 36), len(pixels))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8).reshape(EDGE_PIXELS, EDGE_PIXELS)


def samples(count, seed):
    """`(x, y)`: images `[count, 1, 28, 28]` uint8 and labels `[count]` int64, all classes equally often."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % len(CLASSES))
    images = np.stack([draw(label, generator) for label in labels])
    return images[:, None], labels.astype(np.int64)
