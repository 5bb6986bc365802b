"""Exercises of lesson 05: what stage 1 trains, its learning rate, and what a picture is worth to a loss."""

import math
from typing import Any

import numpy as np
import torch

from minillava.course.exercises import Exercise, is_number

NAMES = (
    "vision_tower.embeddings.patch_embedding.weight",
    "vision_tower.encoder.layers.0.self_attn.q_proj.bias",
    "multi_modal_projector.linear_1.weight",
    "multi_modal_projector.linear_1.bias",
    "multi_modal_projector.linear_2.weight",
    "multi_modal_projector.linear_2.bias",
    "language_model.model.embed_tokens.weight",
    "language_model.model.layers.0.self_attn.q_proj.weight",
    "language_model.lm_head.weight",
)
"""Some of a model's parameters, as `named_parameters` calls them."""


def bits(without, sighted, tokens):
    return (without - sighted) * tokens / math.log(2)


def _bits(answer: Any) -> str | None:
    found, wanted = answer(0.9, 0.2, 10), bits(0.9, 0.2, 10)
    if not is_number(found):
        return f"it returns a {type(found).__name__}; a number is wanted."
    if abs(found - wanted) < 1e-3:
        return None
    if abs(found - wanted) < 0.06:
        return f"{float(found):g} is rounded; return it as it comes, {wanted:.4f}."
    known = {
        "those are nats; a bit is ln 2 of them.": 7.0,
        "those are the bits of one token; a caption has several.": 0.7 / math.log(2),
        "those are the nats of one token: count all tokens, in bits.": 0.7,
        "nats are multiplied by ln 2; but a bit is the smaller unit, so there are more of them.": (
            7.0 * math.log(2)
        ),
        "the sign is wrong: the loss without the picture is the larger one.": -wanted,
    }
    for sentence, value in known.items():
        if abs(found - value) < 1e-3:
            return sentence
    return f"for losses of 0.9 and 0.2 over 10 tokens it returns {float(found):.4g}; wanted is {wanted:.4g}."


def trains(names):
    return [name for name in names if name.startswith("multi_modal_projector.")]


def _trains(answer: Any) -> str | None:
    found, wanted = answer(list(NAMES)), trains(NAMES)
    if not isinstance(found, (list, tuple, set)) or not all(isinstance(name, str) for name in found):
        return f"it returns a {type(found).__name__}; a list of names is wanted."
    found = set(found)
    if found == set(wanted):
        return None
    if not found:
        return "it keeps nothing, so nothing would learn. What is the one part that starts from nothing?"
    if any(name.startswith("vision_tower.") for name in found):
        return "the vision tower is in it; CLIP stays frozen in both stages."
    if any(name.startswith("language_model.") for name in found):
        return "the language model is in it: that is stage 2. Stage 1 leaves it as it is."
    missing = sorted(set(wanted) - found)
    return f"{missing[0]} is missing." if missing else f"{sorted(found)[0]!r} is no parameter of the model."


def rate(step, warmup, total):
    if step < warmup:
        return step / warmup
    done = (step - warmup) / (total - warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def _rate(answer: Any) -> str | None:
    for step, wanted in ((0, 0.0), (5, 0.5), (10, 1.0), (60, 0.5), (110, 0.0), (35, rate(35, 10, 110))):
        found = answer(step, 10, 110)
        if not is_number(found):
            return f"it returns a {type(found).__name__}; a number is wanted."
        if abs(float(found) - wanted) < 1e-4:
            continue
        where = f"at step {step} of 110, 10 of them warm-up, it returns {float(found):.4g}"
        if step >= 10 and abs(float(found) - 0.5 * (1 + math.cos(math.pi * step / 110))) < 1e-4:
            return f"{where}: the cosine begins at step 0; it begins where the warm-up ends."
        if step < 10:
            return f"{where}; the rise is a straight line from 0 at step 0 to 1 at step 10."
        if step == 10:
            return f"{where}; there the warm-up is over and the rate at its peak, 1."
        if step == 35 and abs(float(found) - 0.75) < 1e-4:
            return f"{where}: that is a straight line down; wanted is half a cosine, {wanted:.4g}."
        return f"{where}; wanted is {wanted:.4g}."
    return None


def others(number):
    return [(index + 1) % number for index in range(number)]


def _others(answer: Any) -> str | None:
    for number in range(2, 12):
        found = answer(number)
        if isinstance(found, (torch.Tensor, np.ndarray)):
            found = found.tolist()
        if not isinstance(found, (list, tuple)) or not all(is_number(index) for index in found):
            inside = f" of {type(found[0]).__name__}s" if isinstance(found, (list, tuple)) and found else ""
            kind = f"{type(found).__name__}{inside}"
            return f"it returns a {kind}; a list of {number} picture numbers is wanted."
        if len(found) != number:
            return f"for {number} captions it returns {len(found)} pictures; each caption gets one."
        if not all(index in range(number) for index in found):
            return f"it returns {list(found)}; pictures are numbered from 0 to {number - 1}."
        kept = [index for index, other in enumerate(found) if index == other]
        if kept:
            return f"for {number} pictures, caption {kept[0]} keeps its own: it returns {list(found)}."
        if len(set(found)) < number:
            return f"for {number} pictures it returns {list(found)}: one is used twice, another never."
    return None


EXERCISES = {
    "bits": Exercise(
        statement=(
            "Write `bits(without, sighted, tokens)`: the mean loss, in nats a token, of a guesser who knows "
            "how captions go and never looks, that of a model that looks, and a caption's learned tokens → "
            "how many bits the picture is worth to a caption."
        ),
        hint="How many nats are saved in a whole caption? A bit is ln 2 nats: math.log(2).",
        solution=bits,
        mistake=_bits,
        shows="A loss in nats a token hides how little is at stake: most words of a caption are free.",
    ),
    "trains": Exercise(
        statement=(
            "Write `trains(names)`: the names of all parameters → those that stage 1 trains, as a list. A "
            "name is like `multi_modal_projector.linear_1.bias`, its first word the part it belongs to."
        ),
        hint="One part starts from nothing. Which names begin with it: name.startswith(...)?",
        solution=trains,
        mistake=_trains,
        shows="Four tensors. In LLaVA-1.5-7B they hold 20,979,712 numbers of 7 billion.",
    ),
    "rate": Exercise(
        statement=(
            "Write `rate(step, warmup, total)`: the share of the peak learning rate at a step. It rises in "
            "a straight line from 0 to 1 over `warmup` steps, then falls as half a cosine, to 0 at `total`."
        ),
        hint=(
            "After the warm-up, let x run from 0 to 1 over the steps that remain: (1 + cos(pi x)) / 2 runs "
            "from 1 to 0."
        ),
        solution=rate,
        mistake=_rate,
        shows="Both of LLaVA's stages use it, with 3 % of their steps as warm-up.",
    ),
    "others": Exercise(
        statement=(
            "Write `others(number)`: for captions 0 to `number` − 1, a list of the pictures that they are "
            "shown instead: every picture used once, and no caption with its own."
        ),
        hint="A random order leaves one caption its own picture, on average. Moving on by one does not.",
        solution=others,
        mistake=_others,
        shows="The same pictures and the same captions, only not together: what is left is what looking did.",
    ),
}
