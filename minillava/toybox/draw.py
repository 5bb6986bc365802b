"""Scenes as pixels: a pale, softly textured ground with crisp shapes on it."""

from functools import lru_cache

from PIL import Image

from minillava.toybox.canvas import ground
from minillava.toybox.scene import COLORS, Scene
from minillava.toybox.shapes import sprite


@lru_cache(maxsize=512)
def _solid(color: tuple[int, int, int], size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, color)


def draw(scene: Scene) -> Image.Image:
    """Render a scene as an RGB picture of SIZE x SIZE pixels; the same scene, the same pixels."""
    picture = ground(scene.background, scene.texture)
    for thing in scene.objects:
        stencil = sprite(thing.shape, thing.diameter, thing.angle)
        picture.paste(_solid(COLORS[thing.color], stencil.size), (thing.left, thing.top), stencil)
    return picture
