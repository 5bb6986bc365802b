"""The text that tiny-Vicuna and its tokenizer are made from: Toybox in words, never in pictures."""

import random
from collections.abc import Iterator
from dataclasses import replace

from minillava.conversation import SYSTEM
from minillava.toybox import language, records
from minillava.toybox.claims import sample_claim
from minillava.toybox.scene import MAX_OBJECTS, Plan, Scene

CAPTION_PROMPT = "Provide a one-sentence caption for the provided image."
"""LLaVA-1.5's format prompt for captions (P2 table 7)."""

QUESTIONS = 12
"""Questions about one described scene; many, so that most tokens of a sample teach binding."""


def vocabulary_corpus(scenes: int = 2000) -> Iterator[str]:
    """Text in which every word of Toybox and of the v1 template occurs often, at both word positions."""
    for index in range(scenes):
        scene = records.scene("train", index)
        rng = random.Random(f"vocabulary/{index}")
        yield from language.captions(scene)
        yield sample_claim(scene, rng).text()
        for wording in (language.TEMPLATES, language.PARAPHRASES):
            for asked in language.questions(scene, rng, templates=wording):
                yield f"{asked.text}\n{asked.text}\n{language.SHORT_ANSWER} ASSISTANT: {asked.answer}"
        yield f"{SYSTEM} USER: {records.DESCRIBE}\n{records.DESCRIBE}\nUSER: {CAPTION_PROMPT}"
        yield f"\n{CAPTION_PROMPT}"


def counts(scene: Scene, rng: random.Random) -> list[language.Question]:
    """Two more questions how many; a scene's own are about one value, and counting is learned last."""
    thing = rng.choice(scene.objects)
    asked = []
    for value in (thing.color, thing.shape):
        number = sum(value in (other.color, other.shape) for other in scene.objects)
        plan = Plan(value, number, len(scene.objects))
        asked += language.questions(replace(scene, plan=plan), rng, types=("count",))
    return asked


def conversation(index: int, seed: int, most: int = MAX_OBJECTS) -> list[dict]:
    """One text-only conversation about scene `index`, described in words at its beginning.

    Most ask short questions about a telling in free order; some ask for the dense caption, which puts
    the telling in reading order.
    """
    rng = random.Random(f"corpus/{seed}/{index}")
    scene = records.scene("train", index, seed=seed, most=most)
    told = language.telling(scene, rng) if rng.random() < 0.7 else language.caption(scene)
    if rng.random() < 0.12:
        pairs = [(f"{told}\n{records.DESCRIBE}", language.caption(scene))]
    else:
        asked = language.questions(scene, rng, QUESTIONS) + counts(scene, rng)
        rng.shuffle(asked)
        pairs = records.short_answers(list({question.text: question for question in asked}.values()))
        pairs[0] = (f"{told}\n{pairs[0][0]}", pairs[0][1])
    return records.turns(pairs, image=False)
