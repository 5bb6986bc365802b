"""The six shapes, as anti-aliased stencils."""

import math
from functools import lru_cache

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")

_OVERSAMPLE = 6
_VISIBLE = 40
"""Coverage (0-255) under which an edge pixel is left out: the box of a stencil holds what can be seen."""


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corner points in the unit disc (x right, y down), of about equal visual weight."""
    turn = [2 * math.pi * i / 60 for i in range(60)]
    match shape:
        case "circle":
            return [(0.92 * math.cos(t), 0.92 * math.sin(t)) for t in turn]
        case "square":
            return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
        case "triangle":
            return [(0.0, -0.95), (0.95, 0.75), (-0.95, 0.75)]
        case "star":
            return [
                (r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5))
                for i, r in enumerate([1.0, 0.42] * 5)
            ]
        case "heart":
            curve = [
                (
                    16 * math.sin(t) ** 3,
                    13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t),
                )
                for t in turn
            ]
            return [(x / 17, -(y + 2.5) / 16) for x, y in curve]
        case "cross":
            a, b = 0.95, 0.33
            return [
                (-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b),
                (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b),
            ]  # fmt: skip
    raise ValueError(f"There is no shape {shape!r} in Toybox. Choose one of {', '.join(SHAPES)}.")


@lru_cache(maxsize=4096)
def sprite(shape: str, diameter: int, angle: int) -> Image.Image:
    """A stencil of the shape: an "L" picture, cropped to its own box, 255 inside and soft at the edge.

    `diameter` is in pixels, `angle` in degrees, clockwise.
    """
    edge = diameter + 4
    big = Image.new("L", (edge * _OVERSAMPLE,) * 2)
    sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    half, radius = edge * _OVERSAMPLE / 2, diameter * _OVERSAMPLE / 2
    points = [
        (half + radius * (x * cos - y * sin), half + radius * (x * sin + y * cos))
        for x, y in _outline(shape)
    ]
    ImageDraw.Draw(big).polygon(points, fill=255)
    stencil = big.resize((edge, edge), Image.Resampling.BOX).point(
        lambda v: v if v >= _VISIBLE else 0
    )
    return stencil.crop(stencil.getbbox())
