"""Where the model looks: attention over the picture's patches, recorded as it runs.

    with record(model, rows=[-1]) as recording:  # the pass itself stays on fast (sdpa) attention
        model(input_ids, pixel_values)
    recording.weights  # [B, L, H, R, T]

Shapes: B batch, T positions (the keys), R recorded rows (the queries), L layers, H heads; patches
come as a [grid, grid] square. Arrays that leave this module for `plots` are NumPy's.

Two habits keep the pictures honest. The row that *predicts* token t is t - 1; the row of a word in
the question is the word's own. And no map without a number: its image mass, and its score beside
its baselines (`grounding`).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from types import EllipsisType

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.clip.modeling_clip import CLIPAttention
from transformers.models.llama.modeling_llama import LlamaAttention, rotate_half

from minillava.adopt import adopt
from minillava.conversation import IMAGE_TOKEN
from minillava.images import PatchGeometry, open_image
from minillava.model import MiniLlava, Picture, check_questions

BYTE, CONTINUES = re.compile("<0x([0-9A-F]{2})>"), range(0x80, 0xC0)
"""Name of the token of a byte, and the bytes that do not begin a character in UTF-8."""

Rows = int | slice | Sequence[int] | Tensor | EllipsisType


class Recording:
    """Attention weights of the latest forward pass inside `record`.

    A pass on an empty cache (or none) starts anew; one that continues a cache, as every step of
    `generate` does, appends all its rows.
    """

    def __init__(self, layers: list[int] | None, heads: list[int]):
        self.heads = heads
        self._asked = layers
        self._seen: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def _keep(self, layer: int, rows: Tensor, weights: Tensor, continues: bool) -> None:
        earlier = self._seen.get(layer, []) if continues else []
        self._seen[layer] = [*earlier, (rows, weights)]

    @property
    def layers(self) -> list[int]:
        """Indices of the recorded layers; a tower that stops early leaves out those it did not run.

        Raises:
            RuntimeError: no forward pass ran, or none through a layer that was asked for.
        """
        missing = sorted(set(self._asked or ()) - set(self._seen))
        if missing or not self._seen:
            raise RuntimeError(
                f"No forward pass went through {f'layers {missing}' if missing else 'any layer'}. "
                "Run the model inside the `with` block, and ask only for layers that it runs."
            )
        return sorted(self._seen)

    @property
    def rows(self) -> Tensor:
        """Positions of the recorded queries in the (padded) sequence, [B, R]."""
        return torch.cat([rows for rows, _ in self._seen[self.layers[0]]], dim=1)

    @property
    def weights(self) -> Tensor:
        """Probabilities [B, L, H, R, T], float32. Rows sum to 1 (rows of padding mean nothing)."""
        device = self.rows.device
        return torch.stack([self._layer(index).to(device) for index in self.layers], dim=1)

    @property
    def nbytes(self) -> int:
        """Memory that the recording holds, in bytes: float32, L·H·R·T numbers.

        LLaVA-1.5-7B (32 layers, 32 heads), 650 positions, 32 rows: 85 MB. All rows: 1.7 GB.
        """
        held = (tensor for kept in self._seen.values() for pair in kept for tensor in pair)
        return sum({s.data_ptr(): s.nbytes() for s in map(Tensor.untyped_storage, held)}.values())

    def _layer(self, index: int) -> Tensor:
        """[B, H, R, T] of one layer: rows of earlier steps saw fewer keys, so they end in zeros."""
        parts = [weights for _, weights in self._seen[index]]
        length = max(part.shape[-1] for part in parts)
        return torch.cat([nn.functional.pad(p, (0, length - p.shape[-1])) for p in parts], dim=2)


@contextmanager
def record(
    model: nn.Module,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    rows: Rows = ...,
) -> Iterator[Recording]:
    """Record attention from the very forward passes that run inside the `with` block.

    The model keeps its fast attention, which never forms the [T, T] matrix; hooks take the queries
    and keys it has just computed and form only the rows asked for: L·H·R·T numbers, not L·H·T².
    Equal to eager attention (without dropout) to 1e-5. The hooks are gone when the block ends.

    Args:
        model: anything with LLaMA attention (`MiniLlava`, `LlavaForConditionalGeneration`,
            `LlamaForCausalLM`) or, to see inside the vision tower, a `CLIPVisionModel`. A model
            with both is recorded in its language model.
        layers, heads: indices to keep, negative from the end; all by default.
        rows: query positions to keep of a pass that starts a sequence: an index, slice, sequence
            or mask for the whole batch, or [B, R] with each sample's own; all by default. -1 on a
            left-padded prompt is the row that predicts the first generated token. Later steps of
            `generate` keep all their rows (of beam search, those of abandoned beams too).

    Raises:
        ValueError: `model` has no such attention, or two stacks of it, or a language model of another kind;
            an index is out of range.
    """
    stack = attention_stack(model)
    layers = None if layers is None else indices(layers, len(stack), "layer")
    recording = Recording(layers, indices(heads, stack[0].config.num_attention_heads, "head"))
    with ExitStack() as hooks:
        for index, attention in enumerate(stack):
            if layers is None or index in layers:
                for hook in _tap(attention, index, recording, rows):
                    hooks.enter_context(hook)
        yield recording


def attention_stack(model: nn.Module) -> list[nn.Module]:
    """The attention modules that `record` would tap, in order; ValueError as there."""
    text = getattr(getattr(model, "config", None), "text_config", None)
    if text is not None and text.model_type not in ("llama", "clip_text_model"):
        raise ValueError(
            f"The language model of this {type(model).__name__} is {text.model_type!r}; only LLaMA's kind "
            "('llama', as Vicuna) can be recorded. To see inside its vision tower, pass that."
        )
    for kind in (LlamaAttention, CLIPAttention):
        stack = [module for module in model.modules() if isinstance(module, kind)]
        if len({id(attention.config) for attention in stack}) > 1:
            raise ValueError(
                f"{type(model).__name__} holds two stacks of {kind.__name__} layers; pass the "
                "submodule to record, such as its vision model."
            )
        if stack:
            return stack
    raise ValueError(
        f"{type(model).__name__} has no LLaMA or CLIP attention layer to record from; pass a "
        "MiniLlava, a transformers LLaVA or LLaMA model, or a CLIPVisionModel."
    )


def indices(wanted: Sequence[int] | None, count: int, what: str) -> list[int]:
    """Layers or heads counted from 0, each once, in order; None is all. ValueError if one is not there."""
    wanted = range(count) if wanted is None else wanted
    for index in wanted:
        if not -count <= index < count:
            raise ValueError(f"There is no {what} {index}; the model has 0 to {count - 1}.")
    return sorted({index % count for index in wanted})


def _tap(attention: nn.Module, layer: int, recording: Recording, rows: Rows) -> list:
    """Hook one attention module: its projections hand over Q and K, its end makes them weights.

    why the projections' outputs and not a second product with their weights: whatever an adapter
    or its dropout did in this pass is in them, and nothing is computed twice.
    """
    projected: dict[str, Tensor] = {}

    def keep_queries(module: nn.Module, args: tuple, output: Tensor) -> None:
        projected["queries"] = output.detach()

    def keep_keys(module: nn.Module, args: tuple, output: Tensor) -> None:
        projected["keys"] = output.detach()

    def keep_weights(module: nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:
        queries = projected.pop("queries")
        keys = projected.pop("keys").unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        batch, length = queries.shape[:2]
        cache, rope = kwargs.get("past_key_values"), kwargs.get("position_embeddings")
        total = length
        if cache is not None:  # holds the keys of earlier steps too, rotated
            total = int(cache.get_seq_length(layer))
            keys = cache.layers[layer].keys[:, :, :total]
        elif rope is not None:
            keys = _rotate(keys, *(table[:, None] for table in rope))
        here = _positions(... if total > length else rows, batch, length).to(queries.device)
        weights = _row_weights(module, queries, keys, here, recording.heads, kwargs)
        recording._keep(layer, here + total - length, weights, continues=total > length)

    return [
        attention.q_proj.register_forward_hook(keep_queries),
        attention.k_proj.register_forward_hook(keep_keys),
        attention.register_forward_hook(keep_weights, with_kwargs=True),
    ]


def _positions(rows: Rows, batch: int, length: int) -> Tensor:
    """The asked-for rows as positions [B, R]."""
    index = rows if isinstance(rows, int | slice | EllipsisType) else torch.as_tensor(rows).cpu()
    try:
        picked = torch.arange(length)[index]
        return (picked if picked.dim() > 1 else picked.reshape(1, -1)).expand(batch, -1)
    except (IndexError, RuntimeError) as error:
        raise ValueError(
            f"rows={rows!r} does not pick rows of {batch} samples of {length} positions: {error}. "
            f"Give positions below {length}, one list for all samples or one each."
        ) from error


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864)."""
    return states * cos + rotate_half(states) * sin


@torch.no_grad()
def _row_weights(
    attention: nn.Module,
    queries: Tensor,
    keys: Tensor,
    rows: Tensor,
    heads: list[int],
    kwargs: dict,
) -> Tensor:
    """softmax(q kᵀ / √d + mask) of the wanted rows and heads, [B, H, R, T].

    queries [B, T, all heads * d] as projected; keys [B, key heads, T, d], rotated; kwargs are those
    of the attention module's forward, with its mask and rotary tables.
    """
    batch, length = queries.shape[:2]
    sample = torch.arange(batch, device=rows.device)[:, None]
    wanted = torch.tensor(heads, device=rows.device)
    asked = queries[sample, rows].unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)[:, wanted]
    if (rope := kwargs.get("position_embeddings")) is not None:
        asked = _rotate(asked, *(t.expand(batch, -1, -1)[sample, rows][:, None] for t in rope))
    # grouped-query attention: consecutive query heads share a key head
    keys = keys[:, wanted // getattr(attention, "num_key_value_groups", 1)]
    scores = asked @ keys.transpose(2, 3) * attention.head_dim**-0.5

    mask = kwargs.get("attention_mask")
    if mask is not None:
        if mask.dim() != 4:
            raise ValueError(
                f"The attention mask has {mask.dim()} dimensions, not the 4 of sdpa and eager "
                'attention; call model.set_attn_implementation("sdpa") before recording.'
            )
        mask = mask.expand(batch, -1, -1, -1)[sample, 0, rows][:, None, :, : keys.shape[2]]
    elif length > 1 and kwargs.get("is_causal", attention.is_causal):
        mask = torch.arange(keys.shape[2], device=rows.device) <= rows[:, None, :, None]
    if mask is not None:
        # why not -inf: a padding row may look nowhere, and must not become NaN
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1, dtype=torch.float32)


@dataclass(frozen=True)
class TokenMaps:
    """Attention of some tokens' rows over the picture.

    Attributes:
        tokens: their text, n of them, with the leading space that starts a word.
        maps: share of the row's attention on each patch, [n, L, H, grid, grid].
    """

    tokens: list[str]
    maps: np.ndarray

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def mass(self) -> np.ndarray:
        """Share of each row's attention that falls on the picture at all, [n, L, H]."""
        return self.maps.sum(axis=(-2, -1))

    def find(self, phrase: str) -> list[int]:
        """Indices of the tokens that spell `phrase` where it last occurs as words of its own; if it does not,
        then as a part of others. Raises ValueError if it does not occur."""
        words = self._words(phrase)
        start = words[-1] if words else self.text.rfind(phrase)
        if start < 0 or not phrase:
            raise ValueError(f"{phrase!r} is not in {self.text!r}.")
        return spelling(self.tokens, start, start + len(phrase))

    def says(self, phrase: str) -> bool:
        """Whether `phrase` occurs as words of its own, not only as a part of others."""
        return bool(self._words(phrase))

    def _words(self, phrase: str) -> list[int]:
        return [found.start() for found in re.finditer(rf"\b{re.escape(phrase)}\b", self.text)]


@dataclass(frozen=True)
class AnswerMaps:
    """One answer, and what each token's row looked at.

    Attributes:
        answer: the answer's text.
        answered: the answer's tokens, each with the row that *predicted* it, one position earlier.
        prompt: the tokens from the picture's end to "ASSISTANT:", each with its own row. A word
            that names an object points at it best; the rows of the answer often do not.
        layers, heads: the indices behind the maps' axes.
        geometry: between patches and the original picture's pixels.
    """

    answer: str
    answered: TokenMaps
    prompt: TokenMaps
    layers: list[int]
    heads: list[int]
    geometry: PatchGeometry


def answer_maps(
    model: MiniLlava | LlavaForConditionalGeneration,
    image: Picture,
    question: str,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **generation,
) -> AnswerMaps:
    """Ask about a picture and keep where each word of the question and the answer looked.

    The answer is `model.answer`'s, and the maps come from the passes that gave it. A llava-hf model
    needs its `tokenizer` beside it, and is asked in LLaVA-1.5's way: the picture padded to a square.
    `generation` goes to `MiniLlava.generate`.

    Raises:
        ValueError: beam search was asked for, whose rows belong to changing beams; an empty question; a
            llava-hf model without a tokenizer.
    """
    model = adopt(model, tokenizer)
    if generation.get("num_beams", 1) > 1:
        raise ValueError("answer_maps follows one path of tokens; leave num_beams out.")
    check_questions([question])
    tokenizer, vision = model.tokenizer, model.config.vision_config
    grid = vision.image_size // vision.patch_size
    image = open_image(image)
    turns = [
        {"from": "human", "value": f"{IMAGE_TOKEN}\n{question}"},
        {"from": "gpt", "value": None},
    ]
    batch = model.prepare([turns], [[image]])
    prompt = batch["input_ids"][0]
    patches = (prompt == model.config.image_token_id).nonzero().squeeze(1)
    first = int(patches[-1]) + 1  # why: no row up to the last patch has seen the whole picture
    with record(model, layers, heads, rows=slice(first, None)) as recording:
        new = model.generate(**batch, **generation)[0].tolist()
    if tokenizer.eos_token_id in new:
        new = new[: new.index(tokenizer.eos_token_id)]

    asked = prompt[first:].tolist()
    maps = recording.weights[0][..., patches].unflatten(-1, (grid, grid))  # [L, H, R, grid, grid]
    maps = maps.permute(2, 0, 1, 3, 4).cpu().numpy()
    return AnswerMaps(
        answer=tokenizer.decode(new, skip_special_tokens=True).strip(),
        answered=TokenMaps(pieces(new, tokenizer), maps[len(asked) - 1 :][: len(new)]),
        prompt=TokenMaps(pieces(asked, tokenizer), maps[: len(asked)]),
        layers=recording.layers,
        heads=recording.heads,
        geometry=PatchGeometry(*image.size, vision.image_size, vision.patch_size, model.aspect),
    )


def spelling(tokens: Sequence[str], start: int, end: int) -> list[int]:
    """Indices of the tokens that spell the characters start to end (exclusive) of their joined text.

    A token without text belongs to the character before it (see `pieces`).
    """
    lengths = np.array([len(token) for token in tokens])
    ends = lengths.cumsum()
    return np.flatnonzero((ends > start) & (ends - lengths.clip(1) < end)).tolist()


def pieces(ids: list[int], tokenizer) -> list[str]:
    """Each token's text; "▁" is SentencePiece's leading space, lost when one is decoded alone.

    A character that is not in the vocabulary has a token for each of its bytes in UTF-8. It stands at the
    first of them, and "" at the others.
    """
    names = tokenizer.convert_ids_to_tokens(ids)
    values = [int(byte[1], 16) if (byte := BYTE.fullmatch(name or "")) else None for name in names]

    def text(place: int) -> str:
        name, value = names[place], values[place]
        if value is None:
            return name.replace("▁", " ") if name and "▁" in name else tokenizer.decode([ids[place]])
        if value in CONTINUES and place and values[place - 1] is not None:
            return ""
        rest = takewhile(lambda later: later in CONTINUES, values[place + 1 :])
        return bytes([value, *rest]).decode(errors="replace")

    return [text(place) for place in range(len(ids))]
