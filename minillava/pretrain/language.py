"""How tiny-Vicuna is made: transformers' LlamaForCausalLM, trained from nothing on Toybox in words.

Answering "what color is the star?" about a described scene is looking something up: find the sentence
about the star, read its color. Questions alone did not teach that in any number we could afford. So the
weights start with the parts of that circuit (`head_start.py`), then read notes (`notes.py`): described
scenes with many facts in shorthand, of two objects at first and five at last. Once the model looks things
up, it learns to chat about them, as Vicuna was made from LLaMA, with some random words to copy mixed in.
"""

import random
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from minillava.config import IGNORE_INDEX
from minillava.conversation import SYSTEM, encode
from minillava.pretrain import corpus
from minillava.pretrain.card import save_base
from minillava.pretrain.head_start import start_with_lookup
from minillava.pretrain.loop import Schedule, fit, muon_and_adamw
from minillava.pretrain.notes import notes
from minillava.toybox import domain, language, records
from minillava.toybox.scene import MAX_OBJECTS

NOTES_PEAK, CHAT_PEAK = 3e-3, 2e-3
"""Learning rates of the two phases."""

GROWTH = (0.15, 0.25, 0.35)
"""Shares of the notes' steps after which scenes may have a third, a fourth, a fifth object."""

Sample = tuple[list[int], list[int]]
"""Token ids and labels."""


def build_language_model(vocab_size: int, pad: int) -> LlamaForCausalLM:
    """A LLaMA with Vicuna-1.5's settings (norm eps 1e-5, untied head) at width 192, four layers."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            initializer_range=0.04,  # beside words of norm 1, LLaMA's 0.02 would whisper
            pad_token_id=pad,
        )
    )


def repeats(words: list[int], bos: int, rng: random.Random, longest: int) -> Sample:
    """`<s>`, random words, filler of random length, then a piece of the words again: copy it."""
    first = rng.choices(words, k=rng.randint(6, longest))
    filler = rng.choices(words, k=rng.randint(0, 12))
    length = rng.randint(4, len(first))
    start = rng.randint(0, len(first) - length)
    piece = first[start : start + length]
    ids = [bos, *first, *filler, *piece]
    # The first word of the piece cannot be known; each later one can.
    return ids, [IGNORE_INDEX] * (len(ids) - length + 1) + piece[1:]


def note_sample(index: int, most: int, tokenizer) -> Sample:
    """Scene `index` told in words, then facts about it in shorthand; what they say of it is to be learned."""
    told, pairs = notes(index, 303, most)
    ids = list(tokenizer(told).input_ids)
    labels = [IGNORE_INDEX] * len(ids)
    (stop,) = tokenizer(".", add_special_tokens=False).input_ids[-1:]
    for asked, answer in pairs:
        question, reply = (tokenizer(t, add_special_tokens=False).input_ids for t in (asked, answer))
        ids += [*question, *reply, stop]
        labels += [*[IGNORE_INDEX] * len(question), *reply, IGNORE_INDEX]
    return ids, labels


def next_token_loss(model: LlamaForCausalLM, samples: list[Sample]) -> Tensor:
    """Mean cross-entropy in nats over the labeled tokens; the head runs only there."""
    ids, labels = (
        torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(sample[k]) for sample in samples], batch_first=True, padding_value=pad
        )
        for k, pad in ((0, 0), (1, IGNORE_INDEX))
    )
    # No mask: padding stands on the right, where no earlier token looks.
    hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
    labels = labels[:, 1:]
    learned = labels != IGNORE_INDEX
    return F.cross_entropy(model.lm_head(hidden[learned]), labels[learned])


def answers(model: LlamaForCausalLM, tokenizer, split: str, number: int):
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
        with torch.no_grad():
            best = model(torch.tensor([row.input_ids])).logits[0, :-1].argmax(-1).tolist()
        turn, correct = 0, True
        for label, guess in zip(row.labels[1:], best, strict=True):
            if label == IGNORE_INDEX:
                continue
            correct &= label == guess
            if label == tokenizer.eos_token_id:
                for kind in ("all", questions[turn].type):
                    asked[kind] += 1
                    right[kind] += correct
                turn, correct = turn + 1, True
    return {kind: right[kind] / asked[kind] for kind in ("all", *language.TYPES) if asked[kind]}


def chat_sample(index: int, most: int, tokenizer) -> Sample:
    """A conversation about told scene `index`; two in three save the cost of the system prompt."""
    row = encode(corpus.conversation(index, 202, most), tokenizer, has_image=False)
    start = len(tokenizer(SYSTEM).input_ids) if index % 3 else 1
    return [row.input_ids[0], *row.input_ids[start:]], [row.labels[0], *row.labels[start:]]


def retelling_sample(index: int, tokenizer) -> Sample:
    """Scene `index` told in any order, then its dense caption: plain text, as stage 1 will want it."""
    scene = records.scene("train", index, seed=404)
    told = f"{language.telling(scene, random.Random(f'retelling/{index}'))}\n"
    ids = tokenizer(told + language.caption(scene)).input_ids + [tokenizer.eos_token_id]
    start = len(tokenizer(told).input_ids)
    return ids, [IGNORE_INDEX] * start + ids[start:]


def caption_sample(index: int, tokenizer) -> Sample:
    """A dense caption from one of the other domains, every word of it to be learned."""
    other = corpus.OTHERS[index % len(corpus.OTHERS)]
    text = other.captions(domain.specimen(other, "train", index, seed=404))[0]
    ids = tokenizer(text).input_ids + [tokenizer.eos_token_id]
    return ids, [IGNORE_INDEX, *ids[1:]]


def pretrain_language(
    folder: Path, tokenizer, note_steps: int = 1500, chat_steps: int = 1500, seed: int = 0
) -> dict:
    """Train tiny-Vicuna and save it into `folder`, a transformers LLaMA folder with tokenizer and card.

    Returns the record of the training. An interrupted training goes on from its last checkpoint.
    """
    torch.manual_seed(seed)
    model = build_language_model(-(-len(tokenizer) // 64) * 64, tokenizer.pad_token_id)
    start_with_lookup(model, seed)
    words = [i for token, i in tokenizer.get_vocab().items() if token.startswith("▁") and len(token) > 2]
    bos = tokenizer.bos_token_id

    def reading(step: int) -> Tensor:
        most = 2 + sum(step >= share * note_steps for share in GROWTH)
        return next_token_loss(model, [note_sample(step * 12 + i, most, tokenizer) for i in range(12)])

    def chatting(step: int) -> Tensor:
        rng = random.Random(f"chat/{seed}/{step}")
        samples = [chat_sample(step * 10 + i, MAX_OBJECTS, tokenizer) for i in range(10)]
        samples += [note_sample(10**6 + step * 4 + i, MAX_OBJECTS, tokenizer) for i in range(4)]
        samples += [retelling_sample(step * 2 + i, tokenizer) for i in range(2)]
        samples += [caption_sample(step * 2 + i, tokenizer) for i in range(2)]
        copies = [repeats(words, bos, rng, 32) for _ in range(2)]
        return next_token_loss(model, samples) + 0.2 * next_token_loss(model, copies)

    def watch(step: int) -> str:
        model.eval()
        scores = answers(model, tokenizer, "val", 40)
        return " ".join(f"{kind} {100 * score:.0f}" for kind, score in scores.items())

    phases = {
        "notes": (reading, Schedule(note_steps, peak=NOTES_PEAK, cooldown=0.1), None),
        "chat": (chatting, Schedule(chat_steps, peak=CHAT_PEAK, cooldown=0.4), watch),
    }
    history = {}
    for name, (loss, schedule, watched) in phases.items():
        # While it reads notes, layer 0 goes on looking where the head start told it to: left free, the heads
        # that look far back turned to their own word before any place had been learned from them.
        for looking in (model.model.layers[0].self_attn.q_proj, model.model.layers[0].self_attn.k_proj):
            looking.weight.requires_grad_(name != "notes")
        history[name] = fit(
            model,
            loss,
            muon_and_adamw(model),
            schedule,
            folder / f"training-{name}",
            f"lm, {name}",
            watch=watched,
        )
    return save_base(model.eval(), tokenizer, folder, history, CARD, measure(model, tokenizer))


CARD = ("tiny-Vicuna", "minillava pretrain lm")


def measure(model: LlamaForCausalLM, tokenizer, scenes: int = 300) -> dict[str, str]:
    """The card's numbers: exact match on questions about told validation scenes, by type."""
    scores = answers(model, tokenizer, "val", scenes)
    return {f"questions about told scenes: {kind}": f"{score:.1%}" for kind, score in scores.items()}
