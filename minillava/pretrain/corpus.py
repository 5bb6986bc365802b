"""The text that tiny-Vicuna and its tokenizer are made from: Toybox in words, never in pictures."""

import random
import re
from collections.abc import Iterator

from minillava.conversation import SYSTEM
from minillava.toybox import domain, language, mix, records
from minillava.toybox.claims import sample_claim
from minillava.toybox.counting import counts
from minillava.toybox.creatures import CREATURES
from minillava.toybox.domain import LETTERS, Domain
from minillava.toybox.lessons import LESSONS
from minillava.toybox.mix import Share, Table
from minillava.toybox.scene import MAX_OBJECTS
from minillava.toybox.scenes import SCENES
from minillava.toybox.signs import CHARACTERS, SIGNS
from minillava.toybox.sketch import SKETCH

OTHERS: tuple[Domain, ...] = (SIGNS, CREATURES, LESSONS, SKETCH)
"""The domains beside scenes."""

CAPTION_PROMPT = "Provide a one-sentence caption for the provided image."
"""LLaVA-1.5's format prompt for captions (P2 table 7)."""

REGION_PROMPT = "Provide the bounding box coordinate of the region this sentence describes."
"""LLaVA-1.5's format prompt for boxes (P2 table 7)."""

PHRASES = (
    "What color is it? Where is it? What size is it? What shape is it? What else is there?",
    "Which is larger, the star or the circle? Why? Explain your answer. Give a reason.",
    "The star, because it is large and the circle is small. They have the same size, so neither.",
    "Which color do most objects have? Which shape is most common? Red, because 3 objects are red.",
    "How many objects remain if all stars are taken away? Take away the stars. Without the stars 2 are left.",
    "What is next to it? What is above it? Is it above or below the other one? Nothing, the place is empty.",
    "Is there a red star in the image? Does the image contain a star? The image shows a star.",
    "Give a detailed description. Tell me about the picture. Thank you. Hello! Yes, it is. No, it is not.",
    "Where exactly is the region of the object? Which sentence describes the box? Which option is right?",
)
"""What users say beside the domains' own questions."""

QUESTIONS = 12
"""Questions about one described scene; many, so that most tokens of a sample teach binding."""

_CAPITAL = re.compile(r" (?=[A-Z])")
_LONE = re.compile(rf" ?\b[{CHARACTERS}{LETTERS}]+\b")


def _spelled(text: str) -> str:
    """The text with every sign and option letter cut into characters, each on a line of its own.

    Merges do not cross lines, so a sign is read character by character, and each is the same token wherever
    in the sign it stands and whether a space comes before it.
    """
    return _LONE.sub(lambda found: "\n" + "\n".join(found[0].strip()) + "\n", text)


def vocabulary_corpus(scenes: int = 800) -> Iterator[str]:
    """Text in which every word of Toybox and of the v1 template occurs often, where words can stand.

    That is after a space, and for those that begin a line or follow a mark of code, after that. Lines begin
    more often than they follow a space, so that capitals merge with their words and not with the space,
    which would give the first character of a sign another token than the others.
    """
    for index in range(scenes):
        for text in _texts(index):
            lines = _CAPITAL.sub("\n", text)
            yield _spelled("\n".join([text, *[lines] * 4]))


def _texts(index: int) -> Iterator[str]:
    scene = records.scene("train", index)
    rng = random.Random(f"vocabulary/{index}")
    yield from language.captions(scene)
    yield sample_claim(scene, rng).text()
    for wording in (language.TEMPLATES, language.PARAPHRASES):
        for asked in language.questions(scene, rng, templates=wording):
            yield f"{asked.text} {asked.answer}"
    if index % 10 == 0:
        yield f"{SYSTEM} USER: {records.DESCRIBE}\n{CAPTION_PROMPT}\n{REGION_PROMPT} ASSISTANT:"
    yield PHRASES[index % len(PHRASES)]
    other = OTHERS[index % len(OTHERS)]
    made = domain.specimen(other, "train", index)
    yield from other.captions(made)
    for held_out in (False, True):
        for question in other.questions(made, rng, held_out):
            yield f"{question.human()} ASSISTANT: {question.gpt()}"


TOLD: Table = (
    Share(SCENES, "questions", 42),
    Share(SCENES, "dialogue", 8),
    Share(SCENES, "reasoning", 8),
    Share(SCENES, "choice", 6),
    Share(SCENES, "pope", 4),
    Share(SIGNS, "questions", 8),
    Share(CREATURES, "questions", 8),
    Share(LESSONS, "questions", 8),
    Share(SKETCH, "questions", 8),
)
"""What the conversations are about. Scenes are the bulk, for most of what binds words is learned there."""


def conversation(index: int, seed: int, most: int = MAX_OBJECTS) -> list[dict]:
    """One text-only conversation about a picture described in words at its beginning.

    `most` caps the objects of scenes. Most conversations about scenes ask short questions about a telling
    in free order; some ask for the dense caption, which puts the telling in reading order.
    """
    row = mix.share(TOLD, "told", index, seed)
    one = row.domain
    if (one, row.kind) != (SCENES, "questions"):
        asked = domain.conversation(one, row.kind, "train", index, seed)
        pairs = domain.pairs((asked or domain.questions(one, "train", index, seed))[:QUESTIONS])
        made, rng = domain.specimen(one, "train", index, seed), random.Random(f"told/{seed}/{index}")
        told = one.telling(made, rng) if one.telling else one.captions(made)[0]
        return records.turns([(f"{told}\n{pairs[0][0]}", pairs[0][1]), *pairs[1:]], image=False)
    rng = random.Random(f"corpus/{seed}/{index}")
    scene = records.scene("train", index, seed=seed, most=most)
    told = language.telling(scene, rng) if rng.random() < 0.7 else language.caption(scene)
    if rng.random() < 0.12:
        pairs = [(f"{told}\n{records.DESCRIBE}", language.caption(scene))]
    else:
        asked = language.questions(scene, rng, QUESTIONS) + counts(scene, rng, (language.TEMPLATES,))
        rng.shuffle(asked)
        pairs = records.short_answers(list({question.text: question for question in asked}.values()))
        pairs[0] = (f"{told}\n{pairs[0][0]}", pairs[0][1])
    return records.turns(pairs, image=False)
