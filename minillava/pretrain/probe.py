"""What tiny-CLIP knows: zero-shot accuracy among hard negatives, and linear probes of its patches."""

import random
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from minillava.images import PatchGeometry, preprocess
from minillava.pretrain.clip_model import PATCH, embed_pictures, embed_texts
from minillava.toybox import language, records
from minillava.toybox.claims import VALUES
from minillava.toybox.draw import draw
from minillava.toybox.scene import SIZE, Scene

ATTRIBUTES = ("color", "shape", "size", "place")


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
    """Accuracy, by layer and attribute, of a linear readout of the patches under an object's box.

    Layer 0 is the patch embedding, before any attention: what the tower adds shows against it. Ridge
    regression on two thirds of the validation objects, scored on the rest.
    """
    features: list[list[Tensor]] = []
    truth: dict[str, list[int]] = {name: [] for name in ATTRIBUTES}
    geometry = PatchGeometry(SIZE, SIZE, SIZE, PATCH, "square")
    for index in range(pictures):
        scene = records.scene("val", index)
        pixels = preprocess(draw(scene), SIZE, "square")[None]
        layers = model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
        for thing in scene.objects:
            cover = torch.from_numpy(np.asarray(geometry.cells(thing.box), np.float32)).flatten()
            features.append([(cover / cover.sum()) @ layer[0, 1:] for layer in layers])
            for name in ATTRIBUTES:
                truth[name].append(VALUES[name].index(getattr(thing, name)))
    scores: dict[int, dict[str, float]] = {}
    for layer in range(len(features[0])):
        x = torch.stack([rows[layer] for rows in features])
        x = F.pad((x - x.mean(0)) / (x.std(0) + 1e-5), (0, 1), value=1.0)
        half = 2 * len(x) // 3
        scores[layer] = {}
        for name, values in truth.items():
            y = F.one_hot(torch.tensor(values)).float()
            gram = x[:half].T @ x[:half] + torch.eye(x.shape[1])
            guess = x[half:] @ torch.linalg.solve(gram, x[:half].T @ y[:half])
            scores[layer][name] = (guess.argmax(1) == y[half:].argmax(1)).float().mean().item()
    return scores


def measure(model: CLIPModel, tokenizer, pictures: int = 300) -> dict[str, str]:
    """The card's numbers: zero-shot accuracy among hard negatives, and probes at LLaVA's layer -2."""
    probes = linear_probes(model, 2 * pictures)
    scores = {"right caption among 8, 7 of them wrong in one word": zero_shot(model, tokenizer, pictures)}
    for name, value in probes[len(probes) - 2].items():
        scores[f"{name}, linear readout of layer -2 (of the patch embeddings: {probes[0][name]:.1%})"] = value
    return {what: f"{value:.1%}" for what, value in scores.items()}
