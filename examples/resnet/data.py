"""Draws shapes: 32x32 colour images of ten kinds of shapes on a cluttered, noisy ground.

Everything is drawn by the code below from a seed; there is no data set behind it.
"""

import numpy as np

EDGE_PIXELS = 32
# Each pixel is the mean of a square of this edge.
OVERSAMPLING = 2


def polygon(corners):
    """Membership of a star or a convex polygon given by its corners in order around the origin."""
    corners = np.array(corners)

    def inside(u, v):
        count = np.zeros(u.shape, dtype=bool)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0)):
            crosses = (y0 > v) != (y1 > v)
            with np.errstate(divide="ignore", invalid="ignore"):
                count ^= crosses & (u < (x1 - x0) * (v - y0) / (y1 - y0) + x0)
        return count

    return inside


def around(count, radii, first_degrees=-90.0):
    """Corners at equal angles, with the radii taken in turn."""
    angles = np.radians(first_degrees + 360.0 * np.arange(count) / count)
    radius = np.array([radii[index % len(radii)] for index in range(count)])
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


# Membership of each shape, in a square from -1 to 1.
SHAPES = {
    "disc": lambda u, v: u**2 + v**2 < 0.82,
    "ring": lambda u, v: (u**2 + v**2 < 0.9) & (u**2 + v**2 > 0.3),
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.75,
    "triangle": polygon(around(3, [1.0])),
    "hexagon": polygon(around(6, [0.95])),
    "star": polygon(around(10, [1.0, 0.42])),
    "cross": lambda u, v: (np.maximum(abs(u), abs(v)) < 0.9) & (np.minimum(abs(u), abs(v)) < 0.28),
    "crescent": lambda u, v: (u**2 + v**2 < 0.9) & ((u - 0.5) ** 2 + v**2 > 0.55),
    "half disc": lambda u, v: (u**2 + (v - 0.4) ** 2 < 0.9) & (v < 0.4),
    "arrow": polygon([(1.0, 0.0), (0.1, 0.8), (0.1, 0.3), (-0.9, 0.3), (-0.9, -0.3), (0.1, -0.3), (0.1, -0.8)]),
}
CLASSES = list(SHAPES)


def draw(label, generator):
    """One image, `[3, 32, 32]` uint8."""
    points = (np.arange(EDGE_PIXELS * OVERSAMPLING) + 0.5) / OVERSAMPLING
    x, y = np.meshgrid(points, points)

    def paint(image, mask, colour, opacity=1.0):
        return np.where(mask[..., None], (1 - opacity) * image + opacity * colour, image)

    ground, other = generator.uniform(0, 255, (2, 3))
    direction = generator.uniform(-1, 1, 2)
    slope = np.clip(0.5 + ((x - 16) * direction[0] + (y - 16) * direction[1]) / 32, 0, 1)[..., None]
    image = ground + (other - ground) * slope * generator.uniform(0, 1)
    wave = np.sin(x * generator.uniform(-1.2, 1.2) + y * generator.uniform(-1.2, 1.2) + generator.uniform(0, 6))
    image = image + wave[..., None] * generator.uniform(0, 18)

    def spots(count):
        nonlocal image
        for _ in range(count):
            at = generator.uniform(0, 32, 2)
            radius = generator.uniform(0.8, 2.2)
            image = paint(image, (x - at[0]) ** 2 + (y - at[1]) ** 2 < radius**2, generator.uniform(0, 255, 3))

    spots(generator.integers(0, 6))
    # The shape differs from the ground in at least one channel, but not always by much.
    while True:
        colour = generator.uniform(0, 255, 3)
        if min(np.abs(colour - back).max() for back in (ground, (ground + other) / 2, other)) > 60:
            break
    radius = generator.uniform(6.0, 12.5)
    centre = generator.uniform(radius * 0.85, 32 - radius * 0.85, 2)
    angle = generator.uniform(0, 2 * np.pi)
    stretch = generator.uniform(0.8, 1.0)
    u = (np.cos(angle) * (x - centre[0]) + np.sin(angle) * (y - centre[1])) / radius
    v = (-np.sin(angle) * (x - centre[0]) + np.cos(angle) * (y - centre[1])) / (radius * stretch)
    image = paint(image, SHAPES[CLASSES[label]](u, v), colour, generator.uniform(0.8, 1.0))
    spots(generator.integers(0, 3))
    for _ in range(generator.integers(0, 3)):
        at, normal = generator.uniform(4, 28, 2), generator.uniform(0, np.pi)
        away = np.abs((x - at[0]) * np.cos(normal) + (y - at[1]) * np.sin(normal))
        image = paint(image, away < generator.uniform(0.3, 0.8), generator.uniform(0, 255, 3))
    edge = EDGE_PIXELS
    image = image.reshape(edge, OVERSAMPLING, edge, OVERSAMPLING, 3).mean(axis=(1, 3))
    image = image + generator.normal(0, generator.uniform(2, 16), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8).transpose(2, 0, 1)


def samples(count, seed):
    """`(x, y)`: images `[count, 3, 32, 32]` uint8 and labels `[count]` int64, all classes equally often."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count) % len(CLASSES))
    images = np.stack([draw(label, generator) for label in labels])
    return images, labels.astype(np.int64)
