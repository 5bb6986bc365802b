"""Signs: three to five characters on a board, jittered and speckled. Stands for OCR-VQA and TextVQA.

Reading is all there is to it: no sign says a word, every character is as likely as every other.
"""

import random
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL import Image

from minillava.toybox import canvas
from minillava.toybox.canvas import INK, WHITE, Color, Cutout, Layer, Sheet, deep, mix
from minillava.toybox.domain import Domain, Question, Thing, digest
from minillava.toybox.glyphs import glyph
from minillava.toybox.language import article
from minillava.toybox.scene import BACKGROUNDS, COLORS, SIZE

CHARACTERS = "CDEHJKLPTUXY12345679"
"""No two look alike at this size (no 0/O, I, S, 8/B, V, F, R, M, N, W), and no A, which as an answer would be
an article to VQA's rules (`metrics.normalise_answer`)."""

LENGTHS = (3, 4, 5)
"""How many characters a training sign has. The `more` split shows one more."""

WITHHELD = frozenset((c, i % max(LENGTHS)) for i, c in enumerate(CHARACTERS))
"""(character, place) pairs that no training sign shows, four a place: the compositional split."""

_PITCH, _PITCH_OF_SIX = 16, 14
"""Pixels from one character to the next."""

_MARGIN = 5
"""Pixels between the board's edge and the first character's place."""

_SPECKLED = 32
"""Different patterns of speckles."""

_PEN = 2.9
"""Width of the characters' strokes, in pixels."""

_WOOD: Color = (176, 128, 84)
_CHALK: Color = (255, 253, 246)


@dataclass(frozen=True)
class Letter:
    """One character: the corner of its sheet in pixels, and see `glyphs.glyph` for the rest."""

    character: str
    left: int
    top: int
    width: int
    height: int
    angle: int


@dataclass(frozen=True)
class Sign:
    """A board with characters in reading order; `left`, `top`, `width`, `height` are its own, in pixels."""

    letters: tuple[Letter, ...]
    color: str
    left: int
    top: int
    width: int
    height: int
    posts: int
    background: Color
    texture: int

    @property
    def text(self) -> str:
        return "".join(letter.character for letter in self.letters)


def _withheld(text: str) -> bool:
    return any((character, place) in WITHHELD for place, character in enumerate(text))


def _sample(rng: random.Random) -> Sign:
    """A sign whose characters are uniform at every place, but for those withheld there."""
    number = rng.choice(LENGTHS)
    allowed = [[c for c in CHARACTERS if (c, place) not in WITHHELD] for place in range(number)]
    return _sign(rng, "".join(rng.choice(characters) for characters in allowed))


def _sample_compositional(rng: random.Random) -> Sign:
    """A sign of which at least one character stands where no training sign has it."""
    text = ""
    while not _withheld(text):
        text = "".join(rng.choices(CHARACTERS, k=rng.choice(LENGTHS)))
    return _sign(rng, text)


def _sample_more(rng: random.Random) -> Sign:
    """A sign of one character more than trained; the characters before it stand where trained ones do."""
    allowed = [[c for c in CHARACTERS if (c, place) not in WITHHELD] for place in range(max(LENGTHS) + 1)]
    return _sign(rng, "".join(rng.choice(characters) for characters in allowed))


def _sign(rng: random.Random, text: str) -> Sign:
    pitch = _PITCH if len(text) <= max(LENGTHS) else _PITCH_OF_SIX
    width, height = len(text) * pitch + 2 * _MARGIN, rng.randint(32, 38)
    left, top = rng.randint(1, SIZE - 1 - width), rng.randint(4, 40)
    color = rng.choice(tuple(COLORS))
    letters = []
    for number, character in enumerate(text):
        thin = pitch < _PITCH
        letter = Letter(
            character,
            left=0,
            top=top + height // 2 + rng.randint(-2, 2),
            width=8 if thin else rng.choice((8, 9)),
            height=rng.choice((15, 16, 17)),
            angle=rng.choice((-5, 0, 5) if thin else (-10, -5, 0, 5, 10)),
        )
        drawn = _drawn(letter, color)
        slack = pitch - drawn.image.width
        shift = slack // 2 + rng.randint(-min(slack // 2, 1), min(slack // 2, 1))
        corner = left + _MARGIN + number * pitch + shift - drawn.left
        letters.append(replace(letter, left=corner, top=letter.top - (letter.height + 8) // 2))
    return Sign(
        letters=tuple(letters),
        color=color,
        left=left,
        top=top,
        width=width,
        height=height,
        posts=rng.choice((1, 2)),
        background=rng.choice(BACKGROUNDS),
        texture=rng.getrandbits(32),
    )


def _key(sign: Sign) -> str:
    """What is written decides alone: no text that is read in a test was ever trained, in whatever color."""
    return digest(sign.text)


# --- Pixels ------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _panel(width: int, height: int, color: str) -> Cutout:
    """The board: enamel with a white line around it, its upper half a little lighter."""
    enamel = COLORS[color]
    sheet, face, light = Sheet(width, height), Sheet(width, height), Sheet(width, height)
    sheet.bar(0, 0, width, height, 6, deep(enamel, 0.35))
    sheet.bar(1, 1, width - 1, height - 1, 5.2, mix(enamel, WHITE, 0.85))
    face.bar(2.4, 2.4, width - 2.4, height - 2.4, 4, enamel)
    light.bar(0, 0, width, height * 0.45, 0, mix(enamel, WHITE, 0.06))
    sheet.put(face)
    sheet.put(light, inside=face)
    return sheet.cut()


@lru_cache(maxsize=_SPECKLED)
def _speckles(texture: int) -> Image.Image:
    """Faint dots, light and dark, enough for the largest board."""
    rng, sheet = random.Random(texture), Sheet(SIZE, SIZE // 2)
    for _ in range(45):
        radius = rng.uniform(0.5, 1)
        at = rng.uniform(1, SIZE - 1), rng.uniform(1, SIZE // 2 - 1)
        sheet.oval(*at, radius, radius, rng.choice((WHITE, INK)))
    cutout, image = sheet.cut(), Image.new("RGBA", (SIZE, SIZE // 2))
    image.paste(cutout.image, (cutout.left, cutout.top))
    image.putalpha(image.getchannel("A").point(lambda v: v * 0.35))
    return image


@lru_cache(maxsize=4096)
def _board(width: int, height: int, color: str, texture: int) -> Cutout:
    """The board with speckles on its face."""
    panel = _panel(width, height, color)
    image, face = panel.image.copy(), (4, 4, width - 4, height - 4)
    image.alpha_composite(_speckles(texture).crop(face), face[:2])
    return Cutout(image, panel.left, panel.top)


@lru_cache(maxsize=256)
def _post(height: int) -> Cutout:
    sheet = Sheet(6, height)
    sheet.bar(0.5, 0, 5.5, height, 1.5, deep(_WOOD, 0.25))
    sheet.bar(1, 0, 3.5, height - 0.5, 1, _WOOD)
    return sheet.cut()


def _drawn(letter: Letter, color: str) -> Cutout:
    """A character, dark on light boards and light on dark ones."""
    ink = INK if canvas.is_light(COLORS[color]) else _CHALK
    return glyph(letter.character, letter.width, letter.height, _PEN, letter.angle, ink)


def layers(sign: Sign) -> list[Layer]:
    """The sign's cut-outs, back to front: thing 0 is the board, then the characters in reading order."""
    foot = min(sign.top + sign.height + 34, SIZE - 5)
    below = sign.top + sign.height - 4
    middle = sign.left + sign.width // 2
    spread = sign.width // 4 if sign.posts == 2 else 0
    stack = [canvas.shadow(sign.width, 12).at(sign.left, foot - 6)]
    for x in sorted({middle - spread, middle + spread}):
        stack.append(_post(foot - below).at(x - 3, below))
    stack.append(canvas.shadow(sign.width + 8, sign.height + 8, 60).at(sign.left - 4, sign.top))
    board = _board(sign.width, sign.height, sign.color, sign.texture % _SPECKLED)
    stack.append(board.at(sign.left, sign.top, 0))
    for number, letter in enumerate(sign.letters, 1):
        stack.append(_drawn(letter, sign.color).at(letter.left, letter.top, number))
    return stack


def _draw(sign: Sign) -> Image.Image:
    return canvas.paint(sign.background, sign.texture, layers(sign))


def _things(sign: Sign) -> tuple[Thing, ...]:
    names = [f"{sign.color} sign", *(f"character {c}" for c in sign.text)]
    return tuple(Thing(name, box) for name, box in zip(names, canvas.boxes(layers(sign)), strict=True))


# --- Words -------------------------------------------------------------------------------------


def _captions(sign: Sign) -> list[str]:
    number, text = len(sign.text), sign.text
    return [
        f"{article(sign.color).capitalize()} sign says {text}.",
        f"A sign of {number} characters.",
        f"The sign is {sign.color}.",
        f"The first character on the sign is {text[0]} and the last is {text[-1]}.",
        f"There is a sign that says {text}. The sign is {sign.color}.",
    ]


_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth")


def _telling(sign: Sign, rng: random.Random) -> str:
    """The sign told character by character, in any order.

    In "says K7T" each character is found by what stands before it; here only by its place, as in a picture,
    where every patch can say which character it shows and which one that is, but not what came before.
    """
    places = [f"{place} character" for place in _PLACES[: len(sign.text)]]
    places[-1] = places[-1].replace(" ", " and last ")
    told = [f"The {place} is {c}." for place, c in zip(places, sign.text, strict=True)]
    told.append(f"The sign is {sign.color}.")
    rng.shuffle(told)
    return " ".join(told)


_ORDINALS = ("first", "second", "third", "last")


def _at(ordinal: str) -> int:
    return -1 if ordinal == "last" else _ORDINALS.index(ordinal)


def _facts(sign: Sign) -> list[list[str]]:
    """What is written, as a whole and character by character, each with the ordinals that it has."""
    number = len(sign.text)
    about: list[list[str]] = [[f"character {c}"] for c in sign.text]
    for ordinal in _ORDINALS:
        told = f"the {ordinal} character on the sign"
        about[_at(ordinal)] += [told, f"{told} is {sign.text[_at(ordinal)]}"]
    board = [article(f"{sign.color} sign"), f"a sign of {number} characters", f"the sign says {sign.text}"]
    return [[], board, *about]


_WORDINGS = {
    "sign": (("What does the sign say?", "Which text is on the sign?"), ("Read the sign.",)),
    "sign_character": (
        ("What is the {x} character on the sign?", "Which character is {x} on the sign?"),
        ("The {x} character on the sign is what?",),
    ),
    "sign_exist": (
        ("Is there a {x} on the sign?", "Does the sign show a {x}?"),
        ("Is a {x} on the sign?",),
    ),
    "sign_count": (
        ("How many characters are on the sign?", "What is the number of characters on the sign?"),
        ("There are how many characters on the sign?",),
    ),
    "sign_color": (
        ("What color is the sign?", "Which color does the sign have?"),
        ("The sign has which color?",),
    ),
}
"""Wordings by type: those of training, then those that no training question uses."""


_MEASURES = {"sign": "written", "sign_count": "number"}


def _questions(sign: Sign, rng: random.Random, held_out: bool) -> list[Question]:
    board, *characters = _things(sign)
    ordinal = rng.choice(_ORDINALS)
    place = _at(ordinal)
    wanted = rng.choice("yn")
    sought = rng.choice(sign.text if wanted == "y" else [c for c in CHARACTERS if c not in sign.text])
    facts = (
        ("sign", "", sign.text, characters),
        ("sign_character", ordinal, sign.text[place], [characters[place]]),
        (
            "sign_exist",
            sought,
            "yes" if wanted == "y" else "no",
            [thing for thing, c in zip(characters, sign.text, strict=True) if c == sought],
        ),
        ("sign_count", "", str(len(sign.text)), characters),
        ("sign_color", "", sign.color, [board]),
    )
    asked = [
        Question(
            kind,
            rng.choice(_WORDINGS[kind][held_out]).format(x=word),
            answer,
            tuple(rests_on),
            measure=_MEASURES.get(kind, "exact"),
        )
        for kind, word, answer, rests_on in facts
    ]
    rng.shuffle(asked)
    return asked


SIGNS = Domain(
    name="signs",
    samplers={"train": _sample, "compositional": _sample_compositional, "more": _sample_more},
    key=_key,
    draw=_draw,
    captions=_captions,
    things=_things,
    questions=_questions,
    types=tuple(_WORDINGS),
    telling=_telling,
    facts=_facts,
)
