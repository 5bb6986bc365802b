"""The language model's decoder as training runs it: no padding, and the last layer only where it is read.

A batch goes through as one row of documents, [1, N, D], N real positions; attention alone sees where one
ends and the next begins. That is exact: in a padded batch no document sees another or the padding either.
And training reads the last layer at the positions that predict a token of an answer, a fraction of them:
the others, picture and question, have to offer their keys and values there, which is all that anyone sees
of them, and nothing more.
"""

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, rotate_half


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
        documents: list[int] | None = None,
        read: Tensor | None = None,
        **options,
    ) -> Tensor:
        """Without `documents` LLaMA's own, [B, T, D] -> [B, T, D]. With them [1, N, D] -> [1, N or S, D].

        documents: positions of each, N together.
        read: [N], true where a result is wanted; None is everywhere.
        """
        if documents is None:
            return super().forward(hidden_states, position_embeddings=position_embeddings, **options)
        attention, normed = self.self_attn, self.input_layernorm(hidden_states)
        cos, sin = position_embeddings  # [1, N, K]

        def heads(projection: nn.Module, rows: Tensor) -> Tensor:  # [1, rows, D] -> [1, H, rows, K]
            return projection(rows).view(1, rows.shape[1], -1, attention.head_dim).transpose(1, 2)

        def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            return x * cos[:, None] + rotate_half(x) * sin[:, None]

        key = turned(heads(attention.k_proj, normed), cos, sin)
        value = heads(attention.v_proj, normed)
        if read is not None:
            hidden_states, normed, cos, sin = (x[:, read] for x in (hidden_states, normed, cos, sin))
        query = turned(heads(attention.q_proj, normed), cos, sin)
        mixed = attend(attention, query, key, value, documents, read)  # [1, H, N or S, K]
        hidden = hidden_states + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def attend(
    attention: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    documents: list[int],
    read: Tensor | None,
) -> Tensor:
    """Causal attention within each document: queries [1, H, N or S, K] -> as many mixtures of values."""
    options = {
        "dropout_p": attention.attention_dropout if attention.training else 0.0,
        "scale": attention.scaling,
        "enable_gqa": attention.num_key_value_groups > 1,
    }
    keys, values = key.split(documents, dim=2), value.split(documents, dim=2)
    if read is None:
        found = [
            F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
            for q, k, v in zip(query.split(documents, dim=2), keys, values, strict=True)
        ]
        return torch.cat(found, dim=2)
    rows = [part.nonzero() for part in read.split(documents)]  # each [its S, 1], from 0
    found = []
    for q, k, v, row in zip(query.split([len(r) for r in rows], dim=2), keys, values, rows, strict=True):
        if len(row):
            past = torch.arange(k.shape[2], device=row.device) <= row
            found.append(F.scaled_dot_product_attention(q, k, v, attn_mask=past, **options))
    return torch.cat(found, dim=2)


def packable(language_model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Give a language model these layers, in place; its weights and their names stay."""
    layers = language_model.model.layers
    for index, layer in enumerate(layers):
        layers[index] = DecoderLayer(layer)
    return language_model


def decode(
    language_model: LlamaForCausalLM, inputs_embeds: Tensor, attention_mask: Tensor | None, read: Tensor
) -> Tensor:
    """Embeddings [B, T, D] -> the normed last hidden states where `read` [B, T] is true, [S, D].

    attention_mask [B, T]: 1 for tokens, 0 for padding before or after them; None if there is none. What is
    read has to be a token. The values are those of `language_model.model`, up to float32's rounding.
    """
    model = language_model.model
    real = torch.ones_like(read) if attention_mask is None else attention_mask.bool()
    documents = real.sum(dim=1).tolist()
    ends = torch.tensor(list(accumulate(documents)), device=read.device)
    lengths = torch.tensor(documents, device=read.device)
    starts = (ends - lengths).repeat_interleave(lengths)
    positions = torch.arange(len(starts), device=read.device) - starts  # [N], from 0 in each
    hidden = inputs_embeds[real][None]
    angles = model.rotary_emb(hidden, position_ids=positions[None])
    *layers, last = model.layers
    for layer in layers:
        hidden = layer(hidden, position_embeddings=angles, documents=documents)
    hidden = last(hidden, position_embeddings=angles, documents=documents, read=read[real])
    return model.norm(hidden)[0]
