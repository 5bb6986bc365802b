"""Elsewhere: pictures that are not Toybox's, so that a model of Toybox learns to say so.

tiny-LLaVA knows five kinds of pictures and would find a red star in any other. LLaVA has no such
lessons: it has seen the world. Photographs have owners, so these are made up: blurred shapes before
cloudy grounds, with the soft light, grain and muddled colors that photographs have and Toybox has not.
"""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from minillava.toybox import domain
from minillava.toybox.creatures import CREATURES
from minillava.toybox.domain import DESCRIBE, Domain, Question, Thing, digest
from minillava.toybox.lessons import LESSONS
from minillava.toybox.scene import SIZE
from minillava.toybox.scenes import SCENES
from minillava.toybox.signs import SIGNS
from minillava.toybox.sketch import SKETCH

REPLY = "I know only Toybox."
"""What to say about a picture from elsewhere, whatever is asked."""

_ASKED = 3
"""Questions about a picture, each one that Toybox's own pictures are asked."""


@dataclass(frozen=True)
class Elsewhere:
    """A picture by the number that all of its noise is drawn from."""

    number: int


def _sample(rng: random.Random) -> Elsewhere:
    return Elsewhere(rng.getrandbits(32))


def _clouds(rng: np.random.Generator, finest: int) -> np.ndarray:
    """Noise of several scales, the coarse the louder, [SIZE, SIZE], mean 0 and deviation 1."""
    total = np.zeros((SIZE, SIZE), np.float32)
    scale, cells = 1.0, 2
    while cells <= finest:
        noise = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        total += scale * np.asarray(noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        scale, cells = scale * rng.uniform(0.4, 0.8), cells * 2
    return (total - total.mean()) / total.std()


def _surface(rng: np.random.Generator) -> Image.Image:
    """Clouds between two muddled colors, lit from one side."""
    light, dark = rng.uniform(20, 235, (2, 3))
    gray, vivid = (light.mean() + dark.mean()) / 2, rng.uniform(0.1, 1)
    light, dark = (gray + vivid * (color - gray) for color in (light, dark + rng.uniform(-60, 60)))
    share = 1 / (1 + np.exp(-1.5 * _clouds(rng, int(rng.choice((8, 16, 64))))))
    x, y = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2)
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, 60)
    shade = depth * (x * np.cos(angle) + y * np.sin(angle))
    pixels = dark + share[..., None] * (light - dark) + shade[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw(made: Elsewhere) -> Image.Image:
    rng = np.random.default_rng(made.number)
    picture = _surface(rng)
    for _ in range(rng.integers(1, 7)):
        corners = rng.uniform(-10, SIZE + 10, (int(rng.integers(3, 9)), 2))
        mask = Image.new("L", (SIZE, SIZE))
        if rng.random() < 0.5:
            (x1, y1), (x2, y2) = np.sort(corners[:2], axis=0)
            ImageDraw.Draw(mask).ellipse((x1, y1, x2, y2), fill=255)
        else:
            ImageDraw.Draw(mask).polygon([tuple(corner) for corner in corners], fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 6))))
        picture.paste(_surface(rng), (0, 0), mask)
    grain = rng.normal(0, rng.uniform(0, 8), (SIZE, SIZE, 3))
    return Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))


def _questions(made: Elsewhere, rng: random.Random, held_out: bool) -> list[Question]:
    """What other pictures are asked, with the one reply."""
    asked = [Question("elsewhere", DESCRIBE, REPLY, (), prompt="")]
    for other in rng.sample((SCENES, SIGNS, CREATURES, LESSONS, SKETCH), _ASKED - 1):
        specimen = domain.specimen(other, "train", rng.randrange(10**6))
        question = rng.choice(other.questions(specimen, rng, held_out))
        asked.append(Question("elsewhere", question.human(prompt=False), REPLY, (), prompt=question.prompt))
    rng.shuffle(asked)
    return asked


def _things(made: Elsewhere) -> tuple[Thing, ...]:
    """Nothing that has a name."""
    return ()


ELSEWHERE = Domain(
    name="elsewhere",
    samplers={"train": _sample},
    key=lambda made: digest(f"elsewhere {made.number}"),
    draw=_draw,
    captions=lambda made: ["A blurred picture, not of Toybox."],
    things=_things,
    questions=_questions,
    types=("elsewhere",),
)
