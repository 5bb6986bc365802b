"""How tiny-CLIP is made: transformers' CLIPModel, trained from nothing on Toybox pictures and claims.

Every picture of a batch is compared with every claim of the batch; the label of a pair is whether the
claim is true of the picture (a sigmoid loss as in SigLIP, arXiv 2303.15343, since one claim may be true of
many pictures). Half of the pictures are hard negatives of their neighbor: the same scene with one shape
changed. As CLIP-L/336 itself was made, training starts at a low resolution: crops of one object, a
quarter of the area, teach what things are; then whole pictures, growing to five objects, teach where.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel

from minillava.images import preprocess
from minillava.pretrain.card import save_base
from minillava.pretrain.clip_model import build_clip, embed_pictures, embed_texts, set_grid
from minillava.pretrain.loop import Schedule, fit, muon_and_adamw
from minillava.pretrain.probe import measure
from minillava.toybox import language, records
from minillava.toybox.claims import Claim, reshape, sample_claim, sample_twin
from minillava.toybox.draw import draw
from minillava.toybox.scene import MAX_OBJECTS, SIZE, Scene

LOW = SIZE // 2
"""Edge in pixels of the low-resolution phase's crops."""

CARD = ("tiny-CLIP", "minillava pretrain clip")

BATCH = 64
CLAIMS = 3
"""True claims drawn for each picture; each brings a false twin where there is one."""


@dataclass(frozen=True)
class Phase:
    """One part of the training. `places` is the share of claims that say where, `place_weight` how often a
    false twin differs in that; scenes grow from `first` to MAX_OBJECTS objects; `strength` as in `set_grid`.
    """

    name: str
    edge: int
    strength: float
    steps: int
    schedule: Schedule
    first: int = 2
    places: float = 0.5
    place_weight: int = 2

    def most(self, step: int) -> int:
        """The most objects of a scene at `step`; a crop shows one."""
        return 1 if self.edge == LOW else min(MAX_OBJECTS, self.first + 8 * step // self.steps)


PHASES = (
    Phase("low", LOW, 0.0, 2400, Schedule(2400, cooldown=0.2), places=0.0),
    Phase("full", SIZE, 0.25, 1100, Schedule(1100, cooldown=0.5)),
    Phase("places", SIZE, 1.0, 700, Schedule(700, peak=1.5e-3, cooldown=0.4), 1, 0.9, 6),
)
"""What things are, on crops; then whole pictures; then, with louder positions, where things are."""


def scenes(index: int, rng: random.Random, most: int) -> Iterator[Scene]:
    """A batch of training scenes, each followed by its hard negative."""
    for i in range(index, index + BATCH // 2):
        made = records.scene("train", i, seed=101, most=most)
        yield made
        yield reshape(made, rng)


def picture(scene: Scene, rng: random.Random, low: bool) -> Tensor:
    """Pixels [3, S, S]; low: a crop of LOW pixels around the scene's only object."""
    image = draw(scene)
    if low:
        x1, y1, x2, y2 = scene.objects[0].box
        left = rng.randint(max(0, x2 - LOW), min(x1, SIZE - LOW))
        top = rng.randint(max(0, y2 - LOW), min(y1, SIZE - LOW))
        image = image.crop((left, top, left + LOW, top + LOW))
    return preprocess(image, LOW if low else SIZE, "square")


def contrastive_loss(
    model: CLIPModel, bias: Tensor, tokenizer, index: int, rng: random.Random, phase: Phase, step: int
) -> Tensor:
    """The loss of one batch: all picture-claim pairs, each picture's own pairs, and dense captions."""
    low = phase.edge == LOW
    batch = list(scenes(index, rng, phase.most(step)))
    pixels = torch.stack([picture(scene, rng, low) for scene in batch])
    own: list[tuple[int, Claim]] = []
    for row, scene in enumerate(batch):
        for _ in range(CLAIMS):
            claim = sample_claim(scene, rng, phase.places)
            twin = sample_twin(claim, scene, rng, phase.place_weight)
            own += [(row, claim)] + ([(row, twin)] if twin else [])
    claims = list(dict.fromkeys(claim for _, claim in own))
    column = {claim: i for i, claim in enumerate(claims)}
    truth = torch.tensor([[float(claim.holds(scene)) for claim in claims] for scene in batch])

    scale = model.logit_scale.exp().clamp(max=100.0)
    pictures = embed_pictures(model, pixels)
    texts = embed_texts(model, tokenizer, [claim.text() for claim in claims])
    logits = scale * pictures @ texts.T + bias  # [pictures, claims]
    rows = torch.tensor([row for row, _ in own])
    columns = torch.tensor([column[claim] for _, claim in own])
    pairs = F.binary_cross_entropy_with_logits
    loss = pairs(logits, truth) + pairs(logits[rows, columns], truth[rows, columns])
    if low:
        return loss

    # The dense caption of every third picture must find that picture among all of the batch.
    chosen = [i for i in range(0, len(batch), 3)]
    dense = embed_texts(model, tokenizer, [language.caption(batch[i]) for i in chosen])
    return loss + 0.3 * F.cross_entropy(scale * dense @ pictures.T, torch.tensor(chosen))


def pretrain_clip(folder: Path, tokenizer, phases: tuple[Phase, ...] = PHASES, seed: int = 0) -> dict:
    """Train tiny-CLIP and save it into `folder`, a transformers CLIP folder with its tokenizer and card.

    Returns the record of the training: steps, seconds and loss curve of each phase. An interrupted
    training goes on from its last checkpoint.
    """
    torch.manual_seed(seed)
    model = build_clip(-(-len(tokenizer) // 64) * 64, tokenizer.bos_token_id, tokenizer.pad_token_id)
    bias = nn.Parameter(torch.tensor(-3.0))
    trained = nn.ModuleDict({"clip": model, "bias": nn.ParameterList([bias])})
    history = {}
    for number, phase in enumerate(phases):
        set_grid(model, phase.edge, phase.strength)

        def loss(step: int, phase: Phase = phase, number: int = number) -> Tensor:
            rng = random.Random(f"clip/{seed}/{phase.name}/{step}")
            return contrastive_loss(model, bias, tokenizer, step * BATCH + number * 10**7, rng, phase, step)

        history[phase.name] = fit(
            trained,
            loss,
            muon_and_adamw(trained),
            phase.schedule,
            folder / f"training-{phase.name}",
            f"clip {phase.name}",
        )
    return save_base(model.eval(), tokenizer, folder, history, CARD, measure(model, tokenizer))
