"""How tiny-Vicuna is made: transformers' LlamaForCausalLM, trained from nothing on Toybox in words.

Answering "what color is the star?" about a described scene is looking something up: find the sentence
about the star, read its color. Questions alone did not teach that in any number we could afford. So the
weights start with the parts of that circuit (`head_start.py`), then read notes (`notes.py`): described
scenes with many facts in shorthand, of two objects at first and five at last. Once the model looks things
up, it learns to chat about them, as Vicuna was made from LLaMA. What the other domains and multiple choice
take beside looking up, it learns in drills (`drills.py`) and worksheets (`worksheets.py`), and to read there
signs told by their places. At last it reads maps (`maps.py`): what a picture shows and where, laid out in
a grid of positions as the patches of a picture will be; first drills in reading edges off them, then all
that the stages ask, and drills in counting beside it.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from minillava.config import IGNORE_INDEX
from minillava.conversation import SYSTEM, encode
from minillava.pretrain import corpus
from minillava.pretrain.card import save_base
from minillava.pretrain.drills import lettering, spelling, tallying
from minillava.pretrain.head_start import start_with_lookup
from minillava.pretrain.loop import Schedule, fit, muon_and_adamw
from minillava.pretrain.maps import (
    LAID_OUT,
    NUMBERS,
    SKETCHES,
    code_drill,
    edge_drill,
    map_sample,
    tally_drill,
)
from minillava.pretrain.notes import notes
from minillava.pretrain.sample import Reader, Sample, next_token_loss, replies, sheet
from minillava.pretrain.worksheets import worksheet
from minillava.toybox import domain, language, mix, records
from minillava.toybox.mix import STAGE_1
from minillava.toybox.scene import MAX_OBJECTS

NOTES_PEAK, PEAK, MAPS_PEAK = 3e-3, 2e-3, 1.5e-3
"""Learning rates of the first phase, of the others, and of the last."""

GROWTH = (0.15, 0.25, 0.35)
"""Shares of the notes' steps after which scenes may have a third, a fourth, a fifth object."""


def build_language_model(vocab_size: int, pad: int) -> LlamaForCausalLM:
    """A LLaMA with Vicuna-1.5's settings (norm eps 1e-5, untied head) at width 192, five layers."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=5,
            num_attention_heads=6,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            initializer_range=0.04,  # beside words of norm 1, LLaMA's 0.02 would whisper
            pad_token_id=pad,
        )
    )


def note_sample(index: int, most: int, tokenizer) -> Sample:
    """Scene `index` told in words, then facts about it in shorthand; what they say of it is to be learned."""
    (stop,) = tokenizer(".", add_special_tokens=False).input_ids[-1:]
    return sheet(*notes(index, 303, most), tokenizer, stop)


def answers(reader: Reader, tokenizer, split: str, number: int) -> dict[str, float]:
    """Exact match on held-out questions about told scenes, by type (0-1), teacher-forced.

    Every question is asked within its conversation, after the right answers to those before it.
    """
    right, asked = Counter(), Counter()
    for index in range(number):
        rng = random.Random(f"answers/{index}")
        scene = records.scene(split, index)
        questions = language.questions(scene, rng, corpus.QUESTIONS)
        pairs = records.short_answers(questions)
        pairs[0] = (f"{language.telling(scene, rng)}\n{pairs[0][0]}", pairs[0][1])
        row = encode(records.turns(pairs, image=False), tokenizer, has_image=False)
        found = replies(reader, Sample(row.input_ids, row.labels), tokenizer.eos_token_id)
        for question, correct in zip(questions, found, strict=True):
            for kind in ("all", question.type):
                asked[kind] += 1
                right[kind] += correct
    return {kind: right[kind] / asked[kind] for kind in ("all", *language.TYPES) if asked[kind]}


def worksheet_answers(reader: Reader, tokenizer, split: str, number: int) -> dict[str, float]:
    """Exact replies (0-1) on held-out worksheets, by what they are about, teacher-forced."""
    right, asked = Counter(), Counter()
    for index in range(number):
        about, told, pairs = worksheet(index, 505, split)
        found = replies(reader, sheet(told, pairs, tokenizer), tokenizer.eos_token_id)
        right[about] += sum(found)
        asked[about] += len(found)
    return {about: right[about] / asked[about] for about in sorted(asked) if asked[about]}


def map_answers(reader: Reader, tokenizer, split: str, number: int) -> dict[str, float]:
    """Exact replies (0-1) about held-out maps by what the conversations are, teacher-forced."""
    right, asked = Counter(), Counter()
    for index in range(number):
        row = mix.share(LAID_OUT, "maps", index, 707)
        sample = map_sample((row,), "v1", index, tokenizer, split, 707)
        found = replies(reader, sample, tokenizer.eos_token_id)
        about = f"{row.domain.name}, {row.kind}"
        right[about] += sum(found)
        asked[about] += len(found)
    return {about: right[about] / asked[about] for about in sorted(asked) if asked[about]}


def chat_sample(index: int, most: int, tokenizer) -> Sample:
    """A conversation about told scene `index`; two in three save the cost of the system prompt."""
    row = encode(corpus.conversation(index, 202, most), tokenizer, has_image=False)
    start = len(tokenizer(SYSTEM).input_ids) if index % 3 else 1
    return Sample([row.input_ids[0], *row.input_ids[start:]], [row.labels[0], *row.labels[start:]])


def retelling_sample(index: int, tokenizer) -> Sample:
    """Scene `index` told in any order, then its dense caption: plain text, as stage 1 will want it."""
    scene = records.scene("train", index, seed=404)
    told = f"{language.telling(scene, random.Random(f'retelling/{index}'))}\n"
    ids = tokenizer(told + language.caption(scene)).input_ids + [tokenizer.eos_token_id]
    start = len(tokenizer(told).input_ids)
    return Sample(ids, [IGNORE_INDEX] * start + ids[start:])


def caption_sample(index: int, tokenizer) -> Sample:
    """A dense caption from one of the other domains, every word of it to be learned."""
    other = corpus.OTHERS[index % len(corpus.OTHERS)]
    text = other.captions(domain.specimen(other, "train", index, seed=404))[0]
    ids = tokenizer(text).input_ids + [tokenizer.eos_token_id]
    return Sample(ids, [IGNORE_INDEX, *ids[1:]])


@dataclass(frozen=True)
class Steps:
    """How long each phase lasts, in optimizer steps."""

    notes: int = 1500
    chat: int = 1500
    drills: int = 250
    study: int = 1300
    edges: int = 850
    maps: int = 1900


def pretrain_language(folder: Path, tokenizer, steps: Steps = Steps(), seed: int = 0) -> dict:
    """Train tiny-Vicuna and save it into `folder`, a transformers LLaMA folder with tokenizer and card.

    Returns the record of the training. An interrupted training goes on from its last checkpoint.
    """
    torch.manual_seed(seed)
    model = build_language_model(-(-len(tokenizer) // 64) * 64, tokenizer.pad_token_id)
    start_with_lookup(model, seed)
    reader = Reader(model)

    def draw(number: int, step: int, first: int, sample: Callable[[int], Sample]) -> list[Sample]:
        """The step's share of the samples numbered from `first` on."""
        return [sample(first + step * number + i) for i in range(number)]

    def note(index: int, most: int = MAX_OBJECTS) -> Sample:
        return note_sample(index, most, tokenizer)

    def chat(index: int) -> Sample:
        return chat_sample(index, MAX_OBJECTS, tokenizer)

    def retelling(index: int) -> Sample:
        return retelling_sample(index, tokenizer)

    def caption(index: int) -> Sample:
        return caption_sample(index, tokenizer)

    def drills(step: int, number: int) -> list[Sample]:
        rng = random.Random(f"drills/{seed}/{step}")
        return [sheet(*drill(rng), tokenizer) for drill in (spelling, lettering) for _ in range(number)]

    def counting(step: int) -> list[Sample]:
        rng = random.Random(f"tallies/{seed}/{step}")
        told = [sheet(*tallying(rng), tokenizer) for _ in range(3)]
        return told + draw(2, step, 0, lambda index: tally_drill(index, tokenizer))

    def reading(step: int) -> list[Sample]:
        most = 2 + sum(step >= share * steps.notes for share in GROWTH)
        return draw(12, step, 0, lambda index: note(index, most))

    def chatting(step: int) -> list[Sample]:
        samples = draw(10, step, 0, chat) + draw(4, step, 10**6, note)
        return samples + draw(2, step, 0, retelling) + draw(2, step, 0, caption)

    def studying(step: int) -> list[Sample]:
        samples = draw(8, step, 0, lambda index: sheet(*worksheet(index, 505)[1:], tokenizer))
        samples += draw(5, step, 10**6, chat) + draw(4, step, 2 * 10**6, note)
        return samples + draw(1, step, 10**6, retelling) + draw(1, step, 10**6, caption) + drills(step, 4)

    def edges(step: int, boxes: int = 8, codes: int = 8) -> list[Sample]:
        samples = draw(boxes, step, 0, lambda index: edge_drill(index, tokenizer))
        return samples + draw(codes, step, 0, lambda index: code_drill(index, tokenizer))

    def mapping(step: int) -> list[Sample]:
        captions = draw(2, step, 0, lambda index: map_sample(STAGE_1, "plain", index, tokenizer))
        captions += draw(2, step, 3 * 10**6, lambda index: map_sample(SKETCHES, "plain", index, tokenizer))
        asked = draw(4, step, 10**6, lambda index: map_sample(LAID_OUT, "v1", index, tokenizer))
        asked += draw(8, step, 2 * 10**6, lambda index: map_sample(NUMBERS, "v1", index, tokenizer))
        told = draw(5, step, 10**6, lambda index: sheet(*worksheet(index, 505)[1:], tokenizer))
        told += draw(3, step, 3 * 10**6, chat) + draw(2, step, 4 * 10**6, note)
        told += draw(1, step, 2 * 10**6, retelling) + draw(1, step, 2 * 10**6, caption)
        told += drills(step, 1) + counting(step)
        return captions + asked + told + edges(4 * steps.edges + step, 2, 4)

    def watch(step: int) -> str:
        model.eval()
        scores = answers(reader, tokenizer, "val", 40) | worksheet_answers(reader, tokenizer, "val", 40)
        return " ".join(f"{kind} {100 * score:.0f}" for kind, score in scores.items())

    phases = {
        "notes": (reading, Schedule(steps.notes, peak=NOTES_PEAK, cooldown=0.1), None),
        "chat": (chatting, Schedule(steps.chat, peak=PEAK, cooldown=0.4), watch),
        "drills": (lambda step: drills(step, 18), Schedule(steps.drills, peak=PEAK, cooldown=0.1), None),
        "study": (studying, Schedule(steps.study, peak=PEAK, cooldown=0.4), watch),
        "edges": (edges, Schedule(steps.edges, peak=NOTES_PEAK, cooldown=0.5), None),
        "maps": (mapping, Schedule(steps.maps, peak=MAPS_PEAK, cooldown=0.5), watch),
    }
    history = {}
    for name, (samples, schedule, watched) in phases.items():
        # While it reads notes, layer 0 goes on looking where the head start told it to: left free, the heads
        # that look far back turned to their own word before any place had been learned from them.
        for looking in (model.model.layers[0].self_attn.q_proj, model.model.layers[0].self_attn.k_proj):
            looking.weight.requires_grad_(name != "notes")
        history[name] = fit(
            reader,
            lambda step, samples=samples: next_token_loss(reader, samples(step)),
            muon_and_adamw(reader),
            schedule,
            folder / f"training-{name}",
            f"lm, {name}",
            watch=watched,
        )
    return save_base(model.eval(), tokenizer, folder, history, CARD, measure(reader, tokenizer))


CARD = ("tiny-Vicuna", "minillava pretrain lm")


def measure(reader: Reader, tokenizer, scenes: int = 300) -> dict[str, str]:
    """The card's numbers: exact replies about told scenes by type, worksheets by domain, and maps."""
    told = answers(reader, tokenizer, "val", scenes)
    sheets = worksheet_answers(reader, tokenizer, "val", scenes)
    table = {f"questions about told scenes: {kind}": score for kind, score in told.items()}
    table |= {f"worksheets about {about}": score for about, score in sheets.items()}
    maps = map_answers(reader, tokenizer, "val", scenes)
    table |= {f"maps: {about}": score for about, score in maps.items()}
    return {title: f"{score:.1%}" for title, score in table.items()}
