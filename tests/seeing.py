"""A world so small that a model learns to see in it within a test, and a twin of it that learns nothing.

Pictures have 4 x 4 patches, two or three of which hold an object of some color and shape. Stage 1 is solved
in closed form: a linear projector turns a patch into the sum of its two words' embeddings. Stage 2 is
120 steps.
"""

import io
import random
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig

from minillava.conversation import SYSTEM, encode
from minillava.images import preprocess
from minillava.model import MiniLlava
from minillava.pretrain.muon import Muon
from minillava.pretrain.tokenizer import train_tokenizer
from minillava.toybox.records import DESCRIBE

COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220), "yellow": (240, 210, 40)}
SHAPES = {
    "square": ((1, 1, 1, 1),) * 4,
    "bar": ((0,) * 4, (1,) * 4, (1,) * 4, (0,) * 4),
    "post": ((0, 1, 1, 0),) * 4,
    "dot": ((0,) * 4, (0, 1, 1, 0), (0, 1, 1, 0), (0,) * 4),
}
Thing = tuple[str, str, int]
"""(color, shape, number of its patch)"""

RATE = 8e-3


def scene(rng: random.Random) -> list[Thing]:
    count = rng.randint(2, 3)
    cells = rng.sample(range(16), count)  # not in reading order, which alone would point at objects
    return list(zip(rng.sample(list(COLORS), count), rng.sample(list(SHAPES), count), cells, strict=True))


def box(cell: int) -> list[int]:
    row, column = divmod(cell, 4)
    return [4 * column, 4 * row, 4 * column + 4, 4 * row + 4]


def draw(things: list[Thing]) -> bytes:
    pixels = np.full((16, 16, 3), 235, np.uint8)
    for color, shape, cell in things:
        x1, y1, x2, y2 = box(cell)
        pixels[y1:y2, x1:x2][np.array(SHAPES[shape], bool)] = COLORS[color]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def questions(things: list[Thing], rng: random.Random) -> list[tuple[str, str, str, int]]:
    """(question, answer, the words that name the object, its patch), of every object, in any order."""
    asked = [(f"What shape is the {c} object?", s, f"{c} object", cell) for c, s, cell in things]
    rng.shuffle(asked)
    return asked


def caption(things: list[Thing]) -> str:
    text = ", ".join(f"a {color} {shape}" for color, shape, _ in things)
    return text[0].upper() + text[1:] + "."


def rows(pictures: int, seed: int) -> Iterator[dict]:
    """Evaluation rows as Toybox has them: of the columns, those that measuring attention reads."""
    rng = random.Random(seed)
    for _ in range(pictures):
        things = scene(rng)
        shared = {
            "image": {"bytes": draw(things)},
            "captions": [caption(things)],
            "instances": [
                {"category": f"{c} {s}", "bbox": [v / 16 for v in box(cell)]} for c, s, cell in things
            ],
        }
        for question, answer, reference, cell in questions(things, rng):
            yield shared | {
                "question": question, "answer": answer, "boxes": [box(cell)], "references": [reference],
            }  # fmt: skip


def newborn() -> MiniLlava:
    """Random weights, but a projector that speaks the language: stage 1, solved by least squares."""
    texts = [
        f"{SYSTEM} USER: ASSISTANT: {DESCRIBE}",
        *(f"{r['question']} {r['captions'][0]}" for r in rows(40, 1)),
    ]
    tokenizer = train_tokenizer(4 * texts, vocab_size=600)
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=48, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, image_size=16,
            patch_size=4,
        ),
        text_config=LlamaConfig(
            vocab_size=-(-len(tokenizer) // 64) * 64, hidden_size=64, intermediate_size=128,
            num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256, initializer_range=0.12,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )  # fmt: skip
    config.mm_projector_type = "linear"
    model = MiniLlava(config)
    embeddings = model.vision_tower.embeddings
    torch.nn.init.normal_(embeddings.patch_embedding.weight, std=0.5)
    torch.nn.init.normal_(embeddings.position_embedding.weight, std=0.05)
    model.tokenizer = tokenizer
    model.language_model.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=tokenizer.pad_token_id
    )
    _align(model)
    return model.eval()


@torch.no_grad()
def _align(model: MiniLlava) -> None:
    words = model.language_model.get_input_embeddings().weight
    rng = random.Random(2)
    scenes = [scene(rng) for _ in range(200)]
    features = model.encode_images(torch.stack([preprocess(draw(things), 16) for things in scenes]))
    wanted = torch.zeros(200, 16, words.shape[1])
    for number, things in enumerate(scenes):
        for color, shape, cell in things:
            ids = model.tokenizer(f" {color} {shape}", add_special_tokens=False).input_ids
            wanted[number, cell] = words[ids].sum(0)
    inputs = torch.cat([features.flatten(0, 1), torch.ones(200 * 16, 1)], dim=1)
    ridge = 1e-2 * torch.eye(inputs.shape[1])
    solved = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ wanted.flatten(0, 1))
    model.multi_modal_projector.linear_1.weight.copy_(solved[:-1].T)
    model.multi_modal_projector.linear_1.bias.copy_(solved[-1])


def trained(shuffled: bool = False, steps: int = 120, batch: int = 16) -> MiniLlava:
    """Stage 2 on conversations about pictures; `shuffled`, about the pictures of other conversations."""
    model, rng = newborn(), random.Random(3)
    talks, pictures = [], []
    for _ in range(1000):
        things = scene(rng)
        turns = [(question, answer) for question, answer, *_ in questions(things, rng)]
        talks.append([*turns, (DESCRIBE, caption(things))])
        pictures.append(preprocess(draw(things), 16))
    with torch.no_grad():
        features = model.encode_images(torch.stack(pictures))
    if shuffled:
        features = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(4))]
    encoded = [_encode(model, talk) for talk in talks]
    learning = [p for p in model.parameters() if p.requires_grad]
    layers = [*model.language_model.model.layers.parameters(), model.multi_modal_projector.linear_1.weight]
    hidden = [p for p in layers if p.dim() == 2]
    known = {id(p) for p in hidden}
    rest = [p for p in learning if id(p) not in known]
    optimizers = [Muon(hidden, lr=RATE), torch.optim.AdamW(rest, lr=RATE, betas=(0.9, 0.98), weight_decay=0)]
    model.train()
    for step in range(steps):
        chosen = rng.sample(range(len(talks)), batch)
        ids, labels = (
            torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(getattr(encoded[i], kind)) for i in chosen], True, filler
            )
            for kind, filler in (("input_ids", model.tokenizer.pad_token_id), ("labels", -100))
        )
        mask = (ids != model.tokenizer.pad_token_id).long()
        loss = model(
            ids, image_features=features[chosen], attention_mask=mask, labels=labels, all_logits=False
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (step + 1) / 20, 1.1 - step / steps)
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def _encode(model: MiniLlava, talk: list[tuple[str, str]]):
    turns = []
    for question, answer in talk:
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    return encode(turns, model.tokenizer, num_image_tokens=16)
