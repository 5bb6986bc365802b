"""Drawing for all domains: cut-outs with soft edges, laid on a pale, softly textured ground.

A picture is a stack of layers. Each layer knows which thing it belongs to, so a thing's box is the box of
its layers; shadows belong to nothing.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from minillava.toybox.domain import Box
from minillava.toybox.scene import SIZE

Color = tuple[int, int, int]
Point = tuple[float, float]

INK: Color = (44, 44, 52)
WHITE: Color = (255, 255, 255)

_OVERSAMPLE = 4
_VISIBLE = 40
"""Coverage (0-255) under which an edge pixel is left out: the box of a cut-out holds what can be seen."""

_TEXTURE = 0.06
"""Share of the ground's brightness that is grain."""


def mix(color: Color, other: Color, share: float) -> Color:
    """`color` with `share` (0-1) of `other` stirred in."""
    return tuple(round(a + (b - a) * share) for a, b in zip(color, other, strict=True))


def pale(color: Color, share: float = 0.7) -> Color:
    return mix(color, WHITE, share)


def deep(color: Color, share: float = 0.3) -> Color:
    return mix(color, INK, share)


def curve(start: Point, pull: Point, push: Point, end: Point, steps: int = 14) -> list[Point]:
    """Points on a cubic Bézier curve from `start` to `end`."""
    points = []
    for i in range(steps + 1):
        t, u = i / steps, 1 - i / steps
        weights = u**3, 3 * u * u * t, 3 * u * t * t, t**3
        controls = start, pull, push, end
        points.append(tuple(sum(w * c[k] for w, c in zip(weights, controls, strict=True)) for k in (0, 1)))
    return points


def is_light(color: Color) -> bool:
    """Whether dark marks are easier to see on this color than light ones (Rec. 601 luma over 150)."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 150


@dataclass(frozen=True)
class Cutout:
    """A picture with soft edges (RGBA), cropped to what can be seen; its corner on the sheet, in pixels."""

    image: Image.Image
    left: int
    top: int

    def at(self, x: int, y: int, thing: int | None = None) -> "Layer":
        """This cut-out with its sheet's corner put at (x, y) of the picture."""
        return Layer(self.image, self.left + x, self.top + y, thing)


@dataclass(frozen=True)
class Layer:
    """A cut-out in its place in the picture; `thing` is the number of the thing it belongs to."""

    image: Image.Image
    left: int
    top: int
    thing: int | None = None

    @property
    def box(self) -> Box:
        return self.left, self.top, self.left + self.image.width, self.top + self.image.height


class Sheet:
    """A transparent sheet to draw on, four times oversampled. Coordinates are pixels, with fractions."""

    def __init__(self, width: int, height: int):
        self._image = Image.new("RGBA", (width * _OVERSAMPLE, height * _OVERSAMPLE))
        self._draw = ImageDraw.Draw(self._image)

    def oval(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """A filled ellipse around (x, y)."""
        corners = [(v * _OVERSAMPLE) for v in (x - rx, y - ry, x + rx, y + ry)]
        self._draw.ellipse([corners[0], corners[1], corners[2] - 1, corners[3] - 1], fill=color)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        self._draw.polygon([(x * _OVERSAMPLE, y * _OVERSAMPLE) for x, y in points], fill=color)

    def line(self, points: Sequence[Point], width: float, color: Color) -> None:
        """A stroke through all points, with round joints and ends."""
        scaled = [(x * _OVERSAMPLE, y * _OVERSAMPLE) for x, y in points]
        self._draw.line(scaled, fill=color, width=max(round(width * _OVERSAMPLE), 1))
        for x, y in points:
            self.oval(x, y, width / 2, width / 2, color)

    def bar(self, x1: float, y1: float, x2: float, y2: float, radius: float, color: Color) -> None:
        """A filled rectangle with round corners."""
        corners = [v * _OVERSAMPLE for v in (x1, y1, x2, y2)]
        corners[2:] = corners[2] - 1, corners[3] - 1
        self._draw.rounded_rectangle(corners, radius * _OVERSAMPLE, fill=color)

    def put(self, other: "Sheet", inside: "Sheet | None" = None) -> None:
        """Lay another sheet on this one, only where `inside` is drawn on if that is given."""
        mask = other._image.getchannel("A")
        if inside is not None:
            mask = ImageChops.multiply(mask, inside._image.getchannel("A"))
        self._image.paste(other._image, (0, 0), mask)

    def mirror(self) -> None:
        """Swap left and right."""
        self._image = ImageOps.mirror(self._image)
        self._draw = ImageDraw.Draw(self._image)

    def cut(self) -> Cutout:
        """What is drawn on the sheet, at the size of the picture."""
        image = self._image.reduce(_OVERSAMPLE)
        image.putalpha(image.getchannel("A").point(lambda v: v if v >= _VISIBLE else 0))
        left, top, *_ = box = image.getchannel("A").getbbox() or (0, 0, 1, 1)  # too thin to be seen
        return Cutout(image.crop(box), left, top)


@lru_cache(maxsize=256)
def shadow(width: int, height: int, strength: int = 46) -> Cutout:
    """A soft, flat shadow; the sheet is `width` x `height` pixels, `strength` its darkness (0-255)."""
    alpha = Image.new("L", (width, height))
    edge = min(width, height) * 0.28
    ImageDraw.Draw(alpha).ellipse([edge, edge, width - 1 - edge, height - 1 - edge], fill=strength)
    image = Image.new("RGBA", (width, height), INK)
    image.putalpha(alpha.filter(ImageFilter.GaussianBlur(edge / 2)))
    return Cutout(image, 0, 0)


def cast(cutout: Cutout, strength: int = 80) -> Cutout:
    """The shadow that a cut-out throws on the ground right behind it, a little to the lower right."""
    pad = 5
    alpha = Image.new("L", (cutout.image.width + 2 * pad, cutout.image.height + 2 * pad))
    alpha.paste(strength, (pad, pad), cutout.image.getchannel("A"))
    image = Image.new("RGBA", alpha.size, INK)
    image.putalpha(alpha.filter(ImageFilter.GaussianBlur(1.8)))
    return Cutout(image, cutout.left - pad + 1, cutout.top - pad + 2)


def ground(background: Color, texture: int) -> Image.Image:
    """An empty picture: the background color with a soft grain; the same seed, the same grain."""
    rng = random.Random(texture)
    coarse = Image.frombytes("L", (12, 12), rng.randbytes(144))
    grain = Image.frombytes("L", (SIZE, SIZE), rng.randbytes(SIZE * SIZE))
    noise = Image.blend(coarse.resize((SIZE, SIZE), Image.Resampling.BILINEAR), grain, 0.3)
    plain = Image.new("RGB", (SIZE, SIZE), background)
    return Image.blend(plain, Image.merge("RGB", (noise,) * 3), _TEXTURE)


def paint(background: Color, texture: int, layers: Iterable[Layer]) -> Image.Image:
    """The layers on a ground, first to last: an RGB picture of SIZE x SIZE pixels."""
    picture = ground(background, texture)
    for layer in layers:
        picture.paste(layer.image, (layer.left, layer.top), layer.image)
    return picture


def boxes(layers: Sequence[Layer]) -> list[Box]:
    """The tight boxes of things 0, 1, ... over all their layers."""
    found: dict[int, Box] = {}
    for layer in layers:
        if layer.thing is not None:
            x1, y1, x2, y2 = found.get(layer.thing, layer.box)
            a1, b1, a2, b2 = layer.box
            found[layer.thing] = min(x1, a1), min(y1, b1), max(x2, a2), max(y2, b2)
    return [found[number] for number in sorted(found)]
