"""How tiny-CLIP is made: transformers' CLIPModel, trained from nothing on Toybox pictures and claims.

Every picture of a batch is compared with every claim of the batch; the label of a pair is whether the
claim is true of the picture (a sigmoid loss as in SigLIP, arXiv 2303.15343, since one claim may be true of
many pictures). Half of the pictures are hard negatives of their neighbor: the same scene with one shape
changed. Training starts cheap, as FLIP's does (arXiv 2212.00794): pictures of one object of which the
tower sees a quarter of the patches, those that show something; then more objects and more patches, at last
whole pictures of five. What things are and where they are is learned together from the first step: a tower
that first learned shapes on crops without a place never learned places well. In the next two phases most
pictures are of the other domains, with facts about their things (see `clip_facts`); then half are scenes
again, whose objects are told how many are like them; in the last phase, too, the edges of things are read
off their patches (see `clip_edges`).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel

from minillava.images import preprocess
from minillava.pretrain.card import save_base
from minillava.pretrain.clip_edges import edge_head, edges_loss
from minillava.pretrain.clip_facts import count_rows, domain_rows, facts_loss, scene_rows
from minillava.pretrain.clip_model import GEOMETRY, build_clip, embed_texts, see
from minillava.pretrain.loop import Schedule, fit, muon_and_adamw
from minillava.pretrain.probe import measure
from minillava.toybox import language, records
from minillava.toybox.claims import Claim, reshape, sample_claim, sample_twin
from minillava.toybox.creatures import CREATURES
from minillava.toybox.domain import Domain, belongs, specimen
from minillava.toybox.draw import draw
from minillava.toybox.lessons import LESSONS
from minillava.toybox.scene import MAX_OBJECTS, SIZE, Scene
from minillava.toybox.scenes import SCENES
from minillava.toybox.signs import SIGNS
from minillava.toybox.sketch import SKETCH

CARD = ("tiny-CLIP", "minillava pretrain clip")

BATCH = 64
CLAIMS = 3
"""True claims drawn for each picture; each brings a false twin where there is one."""

MIX = ((SIGNS, 10), (CREATURES, 8), (LESSONS, 10), (SKETCH, 6))
"""Pictures of each other domain in a batch of the phase "all"."""

READING = ((SIGNS, 22), (CREATURES, 4), (LESSONS, 16), (SKETCH, 6))
"""The same of the phase "reading": most show what is learned last, characters and numbers of particles."""

COUNTING = ((SIGNS, 14), (CREATURES, 4), (LESSONS, 10), (SKETCH, 4))
"""The same of the phase "counting", half of which are scenes."""

PLACING = ((SIGNS, 14), (CREATURES, 4), (LESSONS, 8), (SKETCH, 6))
"""The same of the phase "edges"."""

MEASURED = (SKETCH,)
"""Domains whose things' edges are learned beside those of scenes' objects: where something is asked of them.
A head for all things' edges, each as one of 33 steps, left signs' characters read worse (97 % -> 92)."""


@dataclass(frozen=True)
class Phase:
    """One part of the training: scenes of up to `most` objects, of which `kept` patches are shown.

    A batch has so many `scenes` (an even number) and, all patches shown, the pictures of other domains that
    `mix` counts; `edges` is what the loss of things' edges counts beside the others.
    """

    name: str
    most: int
    kept: int
    schedule: Schedule
    scenes: int = BATCH
    mix: tuple[tuple[Domain, int], ...] = ()
    edges: float = 0.0


PHASES = (
    Phase("one", 1, 16, Schedule(700, cooldown=0.2)),
    Phase("three", 3, 32, Schedule(1100, cooldown=0.3)),
    Phase("five", MAX_OBJECTS, 64, Schedule(1000, cooldown=0.5)),
    Phase("all", MAX_OBJECTS, 64, Schedule(2000, cooldown=0.3), scenes=12, mix=MIX),
    Phase("reading", MAX_OBJECTS, 64, Schedule(2400, cooldown=0.4), scenes=8, mix=READING),
    Phase("counting", MAX_OBJECTS, 64, Schedule(2400, cooldown=0.4), scenes=32, mix=COUNTING),
    Phase(
        "edges", MAX_OBJECTS, 64, Schedule(1600, peak=1.2e-3, cooldown=0.5), scenes=32, mix=PLACING, edges=10
    ),
)


def scenes(index: int, rng: random.Random, most: int, number: int) -> Iterator[Scene]:
    """Half that number of training scenes, each followed by a hard negative that may be trained on, too."""
    for i in range(index, index + number // 2):
        made = records.scene("train", i, seed=101, most=most)
        yield made
        twins = (reshape(made, rng) for _ in range(50))
        yield next((twin for twin in twins if belongs(SCENES, twin, "train")), made)


def shown(scene: Scene, number: int, rng: random.Random) -> list[int]:
    """The patches that show most of an object, `number` of them; empty ones at random where it has fewer."""
    cover = sum(np.asarray(GEOMETRY.cells(thing.box)) for thing in scene.objects).flatten()
    order = sorted(range(len(cover)), key=lambda patch: (-cover[patch], rng.random()))
    return order[:number]


def batch_loss(trained: nn.ModuleDict, tokenizer, index: int, rng: random.Random, phase: Phase) -> Tensor:
    """The loss of one batch: claims about scenes, facts about all pictures, dense captions, things' edges."""
    model, (bias,) = trained["clip"], trained["bias"]
    others = [
        (domain, specimen(domain, "train", index + i, seed=101)) for domain, n in phase.mix for i in range(n)
    ]
    batch = list(scenes(index, rng, phase.most, phase.scenes))
    drawn = [draw(scene) for scene in batch] + [domain.draw(made) for domain, made in others]
    pixels = torch.stack([preprocess(picture, SIZE, "square") for picture in drawn])
    kept = None
    if phase.kept < GEOMETRY.grid**2:
        kept = torch.tensor([shown(scene, phase.kept, rng) for scene in batch])
    pictures, patches = see(model, pixels, kept)
    loss = claims_loss(model, bias, tokenizer, batch, pictures[: len(batch)], rng)
    if others:
        rows = [row for i, scene in enumerate(batch) for row in scene_rows(scene, i, rng)]
        rows += [row for i, scene in enumerate(batch) for row in count_rows(scene, i)]
        for i, (domain, made) in enumerate(others, len(batch)):
            rows += domain_rows(domain, made, i, rng)
        loss = loss + facts_loss(model, bias, tokenizer, rows, pictures, patches, rng)
    if phase.edges:
        boxes = [(i, thing.box) for i, scene in enumerate(batch) for thing in scene.objects]
        for i, (domain, made) in enumerate(others, len(batch)):
            if domain in MEASURED:
                boxes += [(i, thing.box) for thing in domain.things(made)]
        loss = loss + phase.edges * edges_loss(trained["edges"], patches, boxes)

    # The dense caption of every third picture must find that picture, or one like it, among the batch.
    captions = [language.caption(scene) for scene in batch]
    captions += [domain.captions(made)[0] for domain, made in others]
    chosen = captions[::3]
    scale = model.logit_scale.exp().clamp(max=100.0)
    dense = embed_texts(model, tokenizer, chosen)
    same = torch.tensor([[float(one == other) for other in captions] for one in chosen])
    return loss + 0.3 * F.cross_entropy(scale * dense @ pictures.T, same / same.sum(1, keepdim=True))


def claims_loss(
    model: CLIPModel, bias: Tensor, tokenizer, batch: list[Scene], pictures: Tensor, rng: random.Random
) -> Tensor:
    """The loss of scenes, whose unit vectors are `pictures`: all picture-claim pairs, and each one's own."""
    own: list[tuple[int, Claim]] = []
    for row, scene in enumerate(batch):
        for _ in range(CLAIMS):
            claim = sample_claim(scene, rng)
            twin = sample_twin(claim, scene, rng)
            own += [(row, claim)] + ([(row, twin)] if twin else [])
    claims = list(dict.fromkeys(claim for _, claim in own))
    column = {claim: i for i, claim in enumerate(claims)}
    truth = torch.tensor([[float(claim.holds(scene)) for claim in claims] for scene in batch])

    scale = model.logit_scale.exp().clamp(max=100.0)
    texts = embed_texts(model, tokenizer, [claim.text() for claim in claims])
    logits = scale * pictures @ texts.T + bias  # [pictures, claims]
    rows = torch.tensor([row for row, _ in own])
    columns = torch.tensor([column[claim] for _, claim in own])
    pairs = F.binary_cross_entropy_with_logits
    return pairs(logits, truth) + pairs(logits[rows, columns], truth[rows, columns])


def pretrain_clip(
    folder: Path, tokenizer, phases: tuple[Phase, ...] = PHASES, seed: int = 0, pictures: int = 300
) -> dict:
    """Train tiny-CLIP and save it into `folder`, a transformers CLIP folder with its tokenizer and card.

    The card's numbers come from `pictures` held-out ones, and twice as many for each domain's probes.
    Returns the record of the training: steps, seconds and loss curve of each phase. An interrupted training
    goes on from its last checkpoint.
    """
    torch.manual_seed(seed)
    model = build_clip(-(-len(tokenizer) // 64) * 64, tokenizer.bos_token_id, tokenizer.pad_token_id)
    bias = nn.Parameter(torch.tensor(-3.0))
    edges = edge_head(model.config.vision_config.hidden_size)
    trained = nn.ModuleDict({"clip": model, "bias": nn.ParameterList([bias]), "edges": edges})
    history = {
        phase.name: train_phase(trained, tokenizer, phase, number * 10**7, folder, seed)
        for number, phase in enumerate(phases)
    }
    return save_base(model.eval(), tokenizer, folder, history, CARD, measure(model, tokenizer, pictures))


def train_phase(
    trained: nn.ModuleDict, tokenizer, phase: Phase, first: int, folder: Path, seed: int = 0
) -> dict:
    """Train all that `trained` holds on pictures from number `first` on.

    It holds the model ("clip"), the sigmoid loss's bias ("bias") and the head that reads edges ("edges").
    """

    def loss(step: int) -> Tensor:
        rng = random.Random(f"clip/{seed}/{phase.name}/{step}")
        return batch_loss(trained, tokenizer, first + step * BATCH, rng, phase)

    optimizers = muon_and_adamw(trained)
    name = f"clip, {phase.name}"
    return fit(trained, loss, optimizers, phase.schedule, folder / f"training-{phase.name}", name)
