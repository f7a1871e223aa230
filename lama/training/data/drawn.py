"""Draws an endless supply of pictures: the grounds that text is printed on.

Every function takes the random generator first and a size (height, width) in pixels and returns
RGB uint8 H×W×3; the same generator state gives the same picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

Size = tuple[int, int]


def colour(rng: Generator) -> np.ndarray:
    """A random colour, float64 RGB 0 to 255: mostly white, black or grey, as on pages of shops."""
    kind = rng.random()
    if kind < 0.2:
        return np.full(3, 255.0)
    if kind < 0.27:
        return np.full(3, float(rng.integers(0, 30)))
    if kind < 0.42:
        return np.full(3, rng.uniform(0, 255))
    hue, saturation, value = rng.uniform(0, 180), rng.beta(1.2, 1.2) * 255, rng.beta(2, 1) * 255
    pixel = np.array([[[hue, saturation, value]]]).astype(np.uint8)
    found: np.ndarray = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)
    return found


def near(rng: Generator, base: np.ndarray, spread: float = 40) -> np.ndarray:
    """A colour close to `base`."""
    about: np.ndarray = np.clip(base + rng.normal(0, spread, 3) * rng.choice([0.3, 1]), 0, 255)
    return about


def _axis(rng: Generator, size: Size, angle: float | None = None) -> np.ndarray:
    """float32 H×W: the distance along a random direction, pixels."""
    angle = rng.choice([0, math.pi / 2, rng.uniform(0, math.pi)]) if angle is None else angle
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    way: np.ndarray = (x * math.cos(angle) + y * math.sin(angle)).astype(np.float32)
    return way


def _mix(share: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """H×W in [0, 1] and two colours (3, or H×W×3) to uint8 H×W×3."""
    share = share[..., None]
    mixed: np.ndarray = np.clip((1 - share) * one + share * other + 0.5, 0, 255).astype(np.uint8)
    return mixed


def flat(rng: Generator, size: Size) -> np.ndarray:
    return np.broadcast_to(colour(rng).astype(np.uint8), (*size, 3)).copy()


def gradient(rng: Generator, size: Size) -> np.ndarray:
    """A linear or radial gradient between two colours."""
    first = colour(rng)
    second = near(rng, first, 70) if rng.random() < 0.7 else colour(rng)
    if rng.random() < 0.7:
        way = _axis(rng, size)
    else:
        centre = rng.uniform(0, 1, 2) * size
        y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
        way = np.hypot(x - centre[1], y - centre[0])
    way = (way - way.min()) / max(float(np.ptp(way)), 1.0)
    return _mix(np.clip(way * rng.uniform(0.8, 1.5), 0, 1), first, second)


def clouds(rng: Generator, size: Size) -> np.ndarray:
    """Smooth noise of a few octaves: blurred photographs, marble, fabric."""
    total: np.ndarray = np.zeros(size, np.float32)
    for octave in range(rng.integers(1, 4)):
        cells = rng.normal(0, 1, (2 + 3 * 2**octave,) * 2).astype(np.float32)
        grown = cv2.resize(cells, size[::-1], interpolation=cv2.INTER_CUBIC)
        total = total + grown / 1.7**octave
    first = colour(rng)
    return _mix(1 / (1 + np.exp(-total)), first, near(rng, first, 80))


def stripes(rng: Generator, size: Size) -> np.ndarray:
    """Parallel lines or a lattice, hard or soft."""
    first = colour(rng)
    second = near(rng, first, 60) if rng.random() < 0.6 else colour(rng)
    period, duty = rng.uniform(4, 48), rng.uniform(-0.8, 0.8)
    soft = rng.choice([0.3, 4.0])
    angle = rng.choice([0, math.pi / 2, math.pi / 4, rng.uniform(0, math.pi)])
    wave = np.sin(_axis(rng, size, angle) * (2 * math.pi / period)) - duty
    if rng.random() < 0.4:
        across = np.sin(_axis(rng, size, angle + math.pi / 2) * (2 * math.pi / period)) - duty
        wave = np.maximum(wave, across) if rng.random() < 0.5 else wave * across
    return _mix(np.clip(0.5 + wave * period / (2 * math.pi * soft), 0, 1), first, second)


def halftone(rng: Generator, size: Size) -> np.ndarray:
    """A screen of dots, of one size or growing along a gradient, as comics are printed."""
    period, angle = rng.uniform(3.5, 20), rng.choice([math.pi / 4, rng.uniform(0, math.pi)])
    u, v = _axis(rng, size, angle), _axis(rng, size, angle + math.pi / 2)
    u, v = (np.mod(a, period) - period / 2 for a in (u, v))
    radius = np.full(size, rng.uniform(0.15, 0.6), np.float32)
    if rng.random() < 0.6:
        way = _axis(rng, size)
        way = (way - way.min()) / max(float(np.ptp(way)), 1.0)
        radius = rng.uniform(0.05, 0.3) + way * rng.uniform(0.1, 0.6)
    inside = np.clip(radius * period - np.hypot(u, v) + 0.5, 0, 1)
    paper = np.full(3, 255.0) if rng.random() < 0.5 else colour(rng)
    ink = np.full(3, 20.0) if rng.random() < 0.5 else colour(rng)
    return _mix(inside, paper, ink)


def ground(rng: Generator, size: Size) -> np.ndarray:
    """A random ground of the kinds above, most often a flat one."""
    return _GROUNDS[int(rng.choice(len(_GROUNDS), p=_SHARES))](rng, size)


_GROUNDS: tuple[Callable[[Generator, Size], np.ndarray], ...]
_GROUNDS = (flat, gradient, clouds, stripes, halftone)
_SHARES = (0.36, 0.26, 0.14, 0.12, 0.12)


def shapes(rng: Generator, size: Size) -> np.ndarray:
    """A ground with discs, polygons and lines on it: hard edges that must be continued."""
    picture = ground(rng, size)
    for _ in range(rng.integers(1, 7)):
        ink = tuple(map(float, colour(rng)))
        x, y = (int(rng.integers(-10, side + 10)) for side in size[::-1])
        kind = rng.random()
        reach = max(2, int(min(size) * rng.uniform(0.05, 0.6)))
        thickness = -1 if rng.random() < 0.6 else int(rng.integers(1, 8))
        if kind < 0.3:
            axes = (reach // 2 + 1, max(1, int(reach * rng.uniform(0.2, 0.6))))
            turn = rng.uniform(0, 180)
            cv2.ellipse(picture, (x, y), axes, turn, 0, 360, ink, thickness, cv2.LINE_AA)
        elif kind < 0.7:
            turns = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 7)))
            points = np.stack([x + reach * np.cos(turns), y + reach * np.sin(turns)], 1)
            points = np.round(points).astype(np.int32)[:, None]
            if thickness < 0:
                cv2.fillPoly(picture, [points], ink, cv2.LINE_AA)
            else:
                cv2.polylines(picture, [points], True, ink, thickness, cv2.LINE_AA)
        else:
            end = (x + int(rng.normal(0, reach * 2)), y + int(rng.normal(0, reach * 2)))
            cv2.line(picture, (x, y), end, ink, int(rng.integers(1, 8)), cv2.LINE_AA)
    return picture
