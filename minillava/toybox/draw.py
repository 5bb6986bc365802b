"""Scenes as pixels: a pale, softly textured ground with crisp shapes on it."""

import random
from functools import lru_cache

from PIL import Image

from minillava.toybox.scene import COLORS, SIZE, Scene
from minillava.toybox.shapes import sprite

_TEXTURE = 0.06
"""Share of the ground's brightness that is grain."""


@lru_cache(maxsize=512)
def _solid(color: tuple[int, int, int], size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, color)


def draw(scene: Scene) -> Image.Image:
    """Render a scene as an RGB picture of SIZE x SIZE pixels; the same scene, the same pixels."""
    rng = random.Random(scene.texture)
    coarse = Image.frombytes("L", (12, 12), rng.randbytes(144))
    grain = Image.frombytes("L", (SIZE, SIZE), rng.randbytes(SIZE * SIZE))
    texture = Image.blend(coarse.resize((SIZE, SIZE), Image.Resampling.BILINEAR), grain, 0.3)
    ground = Image.new("RGB", (SIZE, SIZE), scene.background)
    picture = Image.blend(ground, Image.merge("RGB", (texture,) * 3), _TEXTURE)
    for thing in scene.objects:
        stencil = sprite(thing.shape, thing.diameter, thing.angle)
        picture.paste(_solid(COLORS[thing.color], stencil.size), (thing.left, thing.top), stencil)
    return picture
