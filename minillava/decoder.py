"""The language model's decoder in training: no padding, nothing twice, the last layer where it is read.

A batch goes through as one row of documents, [1, N, D], N real positions; attention alone sees where one
ends and the next begins. That is exact: in a padded batch no document sees another or the padding either.
What all documents begin with (a chat's system prompt) stands in the row once: with nothing before it that
differs, all compute the same there. And training reads the last layer where an answer's token is predicted,
at a fraction of all positions: the others, picture and question, have to offer their keys and values there,
which is all that anyone sees of them, and nothing more.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, rotate_half


@dataclass
class Documents:
    """How a row of N positions divides: `shared` that all documents begin with, then `lengths` of each."""

    lengths: list[int]
    shared: int
    device: torch.device

    @cached_property
    def queries(self) -> Tensor:
        """[B + 1], where each document's own positions begin and end; the first one's begin with the row."""
        return self._bounds([self.shared + self.lengths[0], *self.lengths[1:]])

    @cached_property
    def keys(self) -> Tensor:
        """[B + 1], the same once the shared positions stand before each."""
        return self._bounds([self.shared + length for length in self.lengths])

    def _bounds(self, lengths: list[int]) -> Tensor:
        return torch.tensor([0, *lengths], device=self.device).cumsum(0).int()


class DecoderLayer(LlamaDecoderLayer):
    """LLaMA's decoder layer, with its own weights, that can also take documents in one row.

    A subclass, so that whatever looks for decoder layers (recorders, FSDP, peft, checkpointing) finds these.
    Notation: N positions, of which S are read; H heads of width K.
    """

    def __init__(self, layer: LlamaDecoderLayer) -> None:
        nn.Module.__init__(self)  # not LLaMA's, which would draw weights
        self.hidden_size = layer.hidden_size
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self.input_layernorm = layer.input_layernorm
        self.post_attention_layernorm = layer.post_attention_layernorm

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        documents: Documents | None = None,
        read: Tensor | None = None,
        **options,
    ) -> Tensor:
        """Without `documents` LLaMA's own, [B, T, D] -> [B, T, D]. With them [1, N, D] -> [1, N or S, D].

        read: [N], true where a result is wanted, never in what documents share; None is everywhere.
        """
        if documents is None:
            return super().forward(hidden_states, position_embeddings=position_embeddings, **options)
        rows = None if read is None else read.nonzero()[:, 0]
        query, key, value = self.before(hidden_states, *position_embeddings, rows)
        mixed = attend(self.self_attn, query, key, value, documents, read)
        return self.after(hidden_states if rows is None else hidden_states[:, rows], mixed)

    def before(
        self, hidden_states: Tensor, cos: Tensor, sin: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[1, N, D] and the positions' angles [1, N, K] -> query, key and value for attention, [1, H, N, K].

        Of queries only those at `rows` [S], if given.
        """
        attention, normed = self.self_attn, self.input_layernorm(hidden_states)

        def heads(projection: nn.Module, x: Tensor) -> Tensor:  # [1, N, D] -> [1, H, N, K]
            return projection(x).view(1, x.shape[1], -1, attention.head_dim).transpose(1, 2)

        def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            return x * cos[:, None] + rotate_half(x) * sin[:, None]

        key, value = turned(heads(attention.k_proj, normed), cos, sin), heads(attention.v_proj, normed)
        if rows is not None:
            normed, cos, sin = (x[:, rows] for x in (normed, cos, sin))
        return turned(heads(attention.q_proj, normed), cos, sin), key, value

    def after(self, hidden_states: Tensor, mixed: Tensor) -> Tensor:
        """[1, N, D] and what attention mixed there [1, H, N, K] -> the layer's result, [1, N, D]."""
        hidden = hidden_states + self.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def attend(
    attention: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: Documents,
    read: Tensor | None,
) -> Tensor:
    """Causal attention within each document: queries [1, H, N or S, K] -> as many mixtures of values."""
    if read is None and flashes(attention, value):
        return attend_at_once(attention, query, key, value, documents)
    lengths, shared = documents.lengths, documents.shared
    options = {
        "dropout_p": attention.attention_dropout if attention.training else 0.0,
        "scale": attention.scaling,
        "enable_gqa": attention.num_key_value_groups > 1,
    }

    def whole(rows: Tensor) -> list[Tensor]:  # [1, H, N, K] -> [1, H, shared + its positions, K] of each
        beginning, *rest = rows.split([shared, *lengths], dim=2)
        return [torch.cat((beginning, end), dim=2) for end in rest] if shared else rest

    keys, values = whole(key), whole(value)
    if read is None:
        first, *others = [
            F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
            for q, k, v in zip(whole(query), keys, values, strict=True)
        ]
        return torch.cat([first, *(found[:, :, shared:] for found in others)], dim=2)
    rows = [part.nonzero() + shared for part in read[shared:].split(lengths)]  # each [its S, 1]
    found = []
    for q, k, v, row in zip(query.split([len(r) for r in rows], dim=2), keys, values, rows, strict=True):
        if len(row):
            past = torch.arange(k.shape[2], device=row.device) <= row
            found.append(F.scaled_dot_product_attention(q, k, v, attn_mask=past, **options))
    return torch.cat(found, dim=2)


def flashes(attention: nn.Module, value: Tensor) -> bool:
    """Can FlashAttention take all documents in one call? On a GPU, in half precision."""
    plain = attention.num_key_value_groups == 1 and not (attention.training and attention.attention_dropout)
    half = value.is_cuda and value.dtype in (torch.bfloat16, torch.float16)
    return plain and half and torch.cuda.get_device_capability(value.device) >= (8, 0)


def attend_at_once(
    attention: nn.Module, query: Tensor, key: Tensor, value: Tensor, documents: Documents
) -> Tensor:
    """The same by one kernel, [1, H, N, K]; one after the other, short documents leave a GPU idle."""

    def whole(rows: Tensor) -> Tensor:  # [N, H, K] -> [what all documents see, H, K]
        beginning, *rest = rows.split([documents.shared, *documents.lengths])
        return torch.cat([part for end in rest for part in (beginning, end)])

    query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # [N, H, K]
    if documents.shared:
        key, value = whole(key), whole(value)
    bounds, longest = (documents.queries, documents.keys), documents.shared + max(documents.lengths)
    causal = (-1, 0)  # as far back as there is, none ahead; a document's last query goes with its last key
    mixed = varlen_attn(
        query, key, value, *bounds, longest, longest, scale=attention.scaling, window_size=causal
    )
    return mixed.transpose(0, 1)[None]


def packable(language_model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Give a language model these layers, in place; its weights and their names stay."""
    layers = language_model.model.layers
    for index, layer in enumerate(layers):
        layers[index] = DecoderLayer(layer)
    return language_model


def compile_layers(language_model: LlamaForCausalLM) -> None:
    """Have torch.compile fuse what each layer does before and after attention over documents, in place.

    The first pass compiles, for about a minute; then lengths may differ from batch to batch. Attention stays
    as it is: how a row divides into documents is new every time.
    """
    for layer in language_model.model.layers:
        layer.before = torch.compile(layer.before, dynamic=True)
        layer.after = torch.compile(layer.after, dynamic=True)


def release_layers(language_model: LlamaForCausalLM) -> None:
    """Undo `compile_layers`, if it was done."""
    for layer in language_model.model.layers:
        for name in ("before", "after"):
            vars(layer).pop(name, None)


def watched(language_model: LlamaForCausalLM) -> bool:
    """Is the attention of any layer hooked, to record or to cut it?

    Such a hook waits for the attention's own forward on whole sequences, as they were given: `documents` go
    past it, and a beginning that is read before the rest has other rows.
    """
    attentions = [layer.self_attn for layer in language_model.model.layers]
    return any(one._forward_hooks or one._forward_pre_hooks for one in attentions)


def decode(
    language_model: LlamaForCausalLM,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    read: Tensor,
    shared: int = 0,
) -> Tensor:
    """Embeddings [B, T, D] -> the normed last hidden states where `read` [B, T] is true, [S, D].

    attention_mask [B, T]: 1 for tokens, 0 for padding before or after them; None if there is none. What is
    read has to be a token. `shared` is the number of tokens that every sample begins with, none of them read:
    their embeddings are the first sample's. The values are those of `language_model.model`, up to float32's
    rounding.
    """
    model = language_model.model
    real = torch.ones_like(read) if attention_mask is None else attention_mask.bool()
    place = real.cumsum(dim=1) - 1  # [B, T], from 0 in each sample
    kept = real & (place >= shared)
    documents = Documents(kept.sum(dim=1).tolist(), shared, kept.device)
    kept[0] = real[0]
    hidden = inputs_embeds[kept][None]
    angles = model.rotary_emb(hidden, position_ids=place[kept][None])
    *layers, last = model.layers
    row = {"position_embeddings": angles, "documents": documents}
    for layer in layers:
        hidden = layer(hidden, **row)
    return model.norm(last(hidden, **row, read=read[kept]))[0]
