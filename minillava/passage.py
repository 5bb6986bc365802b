"""A question about a picture and its answer as one sequence, to be run again and looked into.

`attention.answer_maps` watches the passes that spoke. What follows from an answer, as its gradient, its
hidden states or what is left of it without some patches, takes another pass over all of it: that pass is
here.

    <s> A chat … USER: | <image> x N | What color … ASSISTANT: | red | </s>
                         patches                           ↑ the row that predicts "red"
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from minillava.adopt import adopt
from minillava.attention import pieces, record, spelling
from minillava.config import IGNORE_INDEX
from minillava.conversation import IMAGE_TOKEN, encode
from minillava.images import PatchGeometry, open_image
from minillava.model import MiniLlava, Picture, check_questions


@dataclass(frozen=True)
class Passage:
    """T positions: a prompt with one picture of N patches, and n tokens of answer.

    Attributes:
        image: the picture, RGB.
        ids: token ids of all positions, T of them, without a final `</s>`.
        features: the tower's patch features, [1, N, D_v].
        start: position of the answer's first token; T if there is no answer.
        geometry: between patches and the original picture's pixels.
    """

    model: MiniLlava
    image: Image.Image
    ids: list[int]
    features: Tensor
    start: int
    geometry: PatchGeometry

    @property
    def patches(self) -> list[int]:
        """Positions of the picture's patches, N of them, row by row."""
        image = self.model.config.image_token_id
        return [position for position, index in enumerate(self.ids) if index == image]

    @property
    def rows(self) -> list[int]:
        """Positions that *predict* the answer's tokens: each stands one before its token.

        Raises:
            ValueError: the model's answer is empty.
        """
        if self.start == len(self.ids):
            raise ValueError("The answer is empty, so no row predicts any of it; ask something else.")
        return list(range(self.start - 1, len(self.ids) - 1))

    @property
    def answer_ids(self) -> list[int]:
        return self.ids[self.start :]

    @property
    def tokens(self) -> list[str]:
        """The text of every position; `<image>` at the patches."""
        return pieces(self.ids, self.model.tokenizer)

    @property
    def answer(self) -> str:
        return self.model.tokenizer.decode(self.answer_ids, skip_special_tokens=True).strip()

    def find(self, phrase: str, after: int = 0) -> list[int]:
        """Positions of the tokens that spell `phrase` where it first occurs from position `after` on.

        Raises:
            ValueError: it does not.
        """
        tokens = self.tokens[after:]
        text = "".join(tokens)
        at = text.find(phrase)
        if at < 0 or not phrase:
            raise ValueError(f"{phrase!r} is not in {text!r}.")
        return [after + index for index in spelling(tokens, at, at + len(phrase))]

    def embeds(self, features: Tensor | None = None) -> Tensor:
        """What the language model reads, [B, T, D], with `features` [B, N, D_v] in the picture's place."""
        features = self.features if features is None else features
        ids = torch.tensor(self.ids, device=self.model.device).expand(len(features), -1)
        with torch.no_grad():
            return self.model.splice(ids, self.model.project(features))

    def attention(
        self,
        rows: Sequence[int],
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
    ) -> Tensor:
        """Attention of some rows over all positions, [L, H, len(rows), T], while fast attention runs."""
        return self.run(rows, layers, heads)[0]

    @torch.no_grad()
    def run(
        self,
        rows: Sequence[int],
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`attention`, and what the same pass predicted at those rows: logits [len(rows), V]."""
        with record(self.model, layers, heads, rows=list(rows)) as recording:
            logits = self.model.language_model(inputs_embeds=self.embeds(), use_cache=False).logits
        return recording.weights[0], logits[0, list(rows)]

    @torch.no_grad()
    def hidden_states(self) -> Tensor:
        """What enters each layer, and last what leaves the final norm: [L + 1, T, D]."""
        states = self.model.language_model.model(
            inputs_embeds=self.embeds(), use_cache=False, output_hidden_states=True
        ).hidden_states
        return torch.cat(states)

    def on_patches(self, weights: Tensor) -> np.ndarray:
        """Numbers per position, [..., T] -> per patch, [..., grid, grid]."""
        grid = self.geometry.grid
        return weights[..., self.patches].unflatten(-1, (grid, grid)).detach().float().cpu().numpy()


def passage(
    model: MiniLlava | LlavaForConditionalGeneration,
    image: Picture,
    question: str,
    answer: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **generation,
) -> Passage:
    """Ask about a picture, or put an answer into the model's mouth, and keep both as one sequence.

    Args:
        answer: what is to be said; None asks the model, by `MiniLlava.generate(**generation)`.
        tokenizer: of a llava-hf model, as in `attention.answer_maps`.

    Raises:
        ValueError: an empty question or answer was given; a llava-hf model without a tokenizer.
    """
    model = adopt(model, tokenizer)
    check_questions([question])
    vision = model.config.vision_config
    image = open_image(image)
    turns = [{"from": "human", "value": f"{IMAGE_TOKEN}\n{question}"}, {"from": "gpt", "value": None}]
    batch = model.prepare([turns], [[image]])
    with torch.no_grad():
        features = model.encode_images(batch["pixel_values"])
    ids = batch["input_ids"][0].tolist()
    start = len(ids)
    if answer is None:
        new = model.generate(
            batch["input_ids"], image_features=features, attention_mask=batch["attention_mask"], **generation
        )[0].tolist()
        ids += new
    else:
        turns[1]["value"] = answer
        encoded = encode(turns, model.tokenizer, num_image_tokens=model.num_image_tokens)
        start = next((i for i, label in enumerate(encoded.labels) if label != IGNORE_INDEX), None)
        if start is None:
            raise ValueError("The answer is empty; leave it out to let the model answer.")
        ids = encoded.input_ids
    end = model.tokenizer.eos_token_id
    if end in ids[start:]:
        ids = ids[: ids.index(end, start)]
    geometry = PatchGeometry(*image.size, vision.image_size, vision.patch_size, model.aspect)
    return Passage(model, image, ids, features, start, geometry)


@contextmanager
def eager(model: MiniLlava) -> Iterator[None]:
    """Let the language model form its whole attention matrices, as gradients through them need."""
    before = model.language_model.config._attn_implementation
    model.language_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.language_model.set_attn_implementation(before)
