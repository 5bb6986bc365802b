"""Claims: short captions that leave things out, and for which every picture knows whether they are true.

"a red star", "something small at the top". Contrastive training of tiny-CLIP lives on them: each claim
comes with a twin that differs in one attribute and is false, most often in the shape, which the dense
captions can be told apart without.
"""

import random
from dataclasses import dataclass, replace
from itertools import product

from minillava.toybox.language import article
from minillava.toybox.scene import CELL, COLORS, PLACES, SIZES, Object, Scene, trained_kinds
from minillava.toybox.shapes import SHAPES, sprite

VALUES = {"size": tuple(SIZES), "color": tuple(COLORS), "shape": SHAPES, "place": PLACES}
_KEEP = {"size": 0.4, "color": 0.5, "shape": 0.75, "place": 0.5}
_TWIN_WEIGHT = {"size": 1, "color": 1, "shape": 2, "place": 2}


@dataclass(frozen=True)
class Claim:
    """ "There is an object with these attributes"; None leaves an attribute open."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None
    place: str | None = None

    def text(self) -> str:
        words = " ".join(word for word in (self.size, self.color, self.shape) if word)
        if self.shape is None:
            words = f"something {words}".strip()
        else:
            words = article(words)
        return words + (f" at the {self.place}" if self.place else "")

    def holds(self, scene: Scene) -> bool:
        wanted = [(name, value) for name, value in vars(self).items() if value]
        return any(all(getattr(o, name) == value for name, value in wanted) for o in scene.objects)


def claims_of(thing: Object) -> list[str]:
    """All that can be claimed of one object, in words: every choice of its attributes."""
    values = [(getattr(thing, name), None) for name in VALUES]
    return [Claim(*chosen).text() for chosen in product(*values) if any(chosen)]


def sample_claim(scene: Scene, rng: random.Random) -> Claim:
    """A true claim about one object of the scene."""
    thing = rng.choice(scene.objects)
    kept = {name: getattr(thing, name) for name, share in _KEEP.items() if rng.random() < share}
    return Claim(**(kept or {"shape": thing.shape}))


def sample_twin(claim: Claim, scene: Scene, rng: random.Random) -> Claim | None:
    """A false claim that differs from `claim` in one attribute; None if eight draws find none."""
    names = [name for name, value in vars(claim).items() if value]
    for _ in range(8):
        name = rng.choices(names, [_TWIN_WEIGHT[name] for name in names])[0]
        twin = replace(claim, **{name: rng.choice(VALUES[name])})
        known = not (twin.color and twin.shape) or (twin.color, twin.shape) in trained_kinds()
        if known and not twin.holds(scene):
            return twin
    return None


def reshape(scene: Scene, rng: random.Random) -> Scene:
    """The same scene with one object of another shape: a hard negative for the whole picture."""
    k = rng.randrange(len(scene.objects))
    thing = scene.objects[k]
    shapes = [s for c, s in trained_kinds() if c == thing.color and s != thing.shape]
    shape = rng.choice(shapes)
    width, height = sprite(shape, thing.diameter, thing.angle).size
    x, y = thing.column * CELL, thing.row * CELL
    changed: Object = replace(
        thing,
        shape=shape,
        left=min(max(thing.left, x + 1), x + CELL - width - 1),
        top=min(max(thing.top, y + 1), y + CELL - height - 1),
    )
    return replace(scene, objects=(*scene.objects[:k], changed, *scene.objects[k + 1 :]))
