"""What tiny-CLIP knows: zero-shot accuracy among hard negatives, and linear probes of its patches."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from transformers import CLIPModel

from minillava.images import preprocess
from minillava.pretrain.clip_model import GEOMETRY, embed_pictures, embed_texts
from minillava.pretrain.readings import READ, Reading
from minillava.toybox import language, records
from minillava.toybox.claims import VALUES
from minillava.toybox.domain import Box, Domain, specimen
from minillava.toybox.draw import draw
from minillava.toybox.scene import SIZE, Object, Scene

ATTRIBUTES = ("color", "shape", "size", "place")

EDGES, STEPS = ("left", "top", "right", "bottom"), 16
"""A box's edges in its order, and the parts of the picture's side among which the readout is to find them."""

_BATCH = 50
"""Pictures that pass the tower at once."""


def hard_negatives(scene: Scene, number: int, rng: random.Random) -> list[str]:
    """Dense captions that are false of the scene in one size, color or shape."""
    found = {}
    while len(found) < number:
        k, name = rng.randrange(len(scene.objects)), rng.choice(("size", "color", "shape"))
        thing = scene.objects[k]
        value = rng.choice([v for v in VALUES[name] if v != getattr(thing, name)])
        changed = (*scene.objects[:k], replace(thing, **{name: value}), *scene.objects[k + 1 :])
        found[language.caption(replace(scene, objects=changed))] = None
    return list(found)


@torch.no_grad()
def zero_shot(model: CLIPModel, tokenizer, pictures: int = 300, negatives: int = 7) -> float:
    """How often a validation picture's own caption wins against `negatives` that differ in one word."""
    right = 0
    for index in range(pictures):
        scene = records.scene("val", index)
        captions = [language.caption(scene), *hard_negatives(scene, negatives, random.Random(index))]
        seen = embed_pictures(model, preprocess(draw(scene), SIZE, "square")[None])
        right += int((embed_texts(model, tokenizer, captions) @ seen[0]).argmax() == 0)
    return right / pictures


@torch.no_grad()
def linear_probes(model: CLIPModel, pictures: int = 600) -> dict[int, dict[str, float]]:
    """Accuracy of a linear readout of the patches under an object's box, by layer and by what is read.

    Layer 0 is the patch embedding, before any attention: what the tower adds shows against it.
    """
    drawn, readings = [], []
    for index in range(pictures):
        scene = records.scene("val", index)
        drawn.append(draw(scene))
        for one in scene.objects:
            readings += [(index, one.box, name, getattr(one, name)) for name in ATTRIBUTES]
            edges = zip(EDGES, one.box, strict=True)
            readings += [(index, one.box, f"{name} edge", str(edge * STEPS // SIZE)) for name, edge in edges]
            readings += [
                (index, one.box, f"how many of its {name}", str(_alike(scene, one, name)))
                for name in ("color", "shape")
            ]
    return readout(model, drawn, readings, range(model.config.vision_config.num_hidden_layers + 1))


def _alike(scene: Scene, thing: Object, name: str) -> int:
    return sum(getattr(other, name) == getattr(thing, name) for other in scene.objects)


@torch.no_grad()
def domain_probes(
    model: CLIPModel, domain: Domain, read: Callable[[Any], Iterable[Reading]], pictures: int = 600
) -> dict[int, dict[str, float]]:
    """The same for another domain, at layers 0 and -2: what is to be read, over the box of its thing."""
    drawn, readings = [], []
    for index in range(pictures):
        made = specimen(domain, "val", index)
        drawn.append(domain.draw(made))
        things = domain.things(made)
        readings += [(index, things[number].box, what, answer) for what, number, answer in read(made)]
    return readout(model, drawn, readings, (0, model.config.vision_config.num_hidden_layers - 1))


def readout(
    model: CLIPModel,
    drawn: list[Image],
    readings: list[tuple[int, Box, str, str]],
    layers: Sequence[int],
) -> dict[int, dict[str, float]]:
    """Accuracy by layer and by what is read, of readings (picture's number, box, what, answer).

    Ridge regression on the first two thirds of the readings of each kind, scored on the rest.
    """
    things = {thing: i for i, thing in enumerate(dict.fromkeys((n, box) for n, box, *_ in readings))}
    covers = [np.asarray(GEOMETRY.cells(box), np.float32).flatten() for _, box in things]
    shares = torch.from_numpy(np.stack(covers))
    shares /= shares.sum(1, keepdim=True)
    features = {layer: torch.empty(len(things), model.config.vision_config.hidden_size) for layer in layers}
    for first in range(0, len(drawn), _BATCH):
        batch = drawn[first : first + _BATCH]
        pixels = torch.stack([preprocess(picture, SIZE, "square") for picture in batch])
        states = model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
        shown = [(i, n - first) for (n, _), i in things.items() if first <= n < first + _BATCH]
        for i, n in shown:
            for layer in layers:
                features[layer][i] = shares[i] @ states[layer][n, 1:]
    scores: dict[int, dict[str, float]] = {layer: {} for layer in layers}
    for what in dict.fromkeys(reading[2] for reading in readings):
        own = [(things[n, box], answer) for n, box, asked, answer in readings if asked == what]
        rows, answers = zip(*own, strict=True)
        for layer in layers:
            scores[layer][what] = ridge_accuracy(features[layer][list(rows)], answers)
    return scores


def ridge_accuracy(features: Tensor, answers: Sequence[str]) -> float:
    """How often a linear classifier of features [N, F], fitted to two thirds, is right on the last third."""
    classes = sorted(set(answers))
    y = F.one_hot(torch.tensor([classes.index(answer) for answer in answers]), len(classes)).float()
    cut = 2 * len(features) // 3
    x = (features - features.mean(0)) / (features.std(0) + 1e-5)
    x = F.pad(x, (0, 1), value=1.0)
    gram = x[:cut].T @ x[:cut] + torch.eye(x.shape[1])
    guess = x[cut:] @ torch.linalg.solve(gram, x[:cut].T @ y[:cut])
    return (guess.argmax(1) == y[cut:].argmax(1)).float().mean().item()


def measure(model: CLIPModel, tokenizer, pictures: int = 300) -> dict[str, str]:
    """The card's numbers: zero-shot accuracy among hard negatives, and probes at LLaVA's layer -2."""
    probed = {"scenes": linear_probes(model, 2 * pictures)}
    probed |= {domain.name: domain_probes(model, domain, found, 2 * pictures) for domain, found in READ}
    right = zero_shot(model, tokenizer, pictures)
    scores = {"right caption among 8, 7 of them wrong in one word": f"{right:.1%}"}
    read = model.config.vision_config.num_hidden_layers - 1
    for name, layers in probed.items():
        for what, value in layers[read].items():
            scores[f"{name}: {what}, linear readout of layer -2 (of the patch embeddings)"] = (
                f"{value:.1%} ({layers[0][what]:.1%})"
            )
    return scores
