"""The language model's last decoder layer, run only where its result is read.

Training reads the last layer at the positions that predict a token of an answer, a fraction of them: the
rest is picture and question. Those others still have to offer their keys and values, which is all that
anyone sees of them in this layer; their own query, attention, output and MLP would be thrown away.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, rotate_half


class LastLayer(LlamaDecoderLayer):
    """LLaMA's decoder layer, with its own weights, that can leave out rows nobody reads.

    Notation: B batch, T positions, H heads, K their width, D = H K, S rows that are read, Q = T - first of
    them. A subclass, so that whatever looks for decoder layers (recorders, FSDP, peft) finds this one too.
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
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        read: Tensor | None = None,
        **options,
    ) -> Tensor:
        """As LLaMA's [B, T, D] -> [B, T, D]; with `read` [B, T], true somewhere, -> its rows only, [S, D].

        attention_mask: what transformers made of the model's: None (causal), or [B or 1, 1, T, T].
        """
        if read is None or not (attention_mask is None or isinstance(attention_mask, Tensor)):
            whole = super().forward(
                hidden_states,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                **options,
            )
            return whole if read is None else whole[read]

        attention, (batch, length, _) = self.self_attn, hidden_states.shape
        first = int(read.any(dim=0).nonzero()[0])
        if attention_mask is None:
            everywhere = torch.ones(length, length, dtype=torch.bool, device=hidden_states.device)
            attention_mask = everywhere.tril()[None, None]

        def heads(projection: nn.Module, rows: Tensor) -> Tensor:  # [B, rows, D] -> [B, H, rows, K]
            return projection(rows).view(batch, rows.shape[1], -1, attention.head_dim).transpose(1, 2)

        normed = self.input_layernorm(hidden_states)
        query = heads(attention.q_proj, normed[:, first:])
        key, value = heads(attention.k_proj, normed), heads(attention.v_proj, normed)
        cos, sin = (angles[:, None] for angles in position_embeddings)  # [1 or B, 1, T, K]
        query = query * cos[:, :, first:] + rotate_half(query) * sin[:, :, first:]
        key = key * cos + rotate_half(key) * sin
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask[:, :, first:],
            dropout_p=attention.attention_dropout if self.training else 0.0,
            scale=attention.scaling,
            enable_gqa=attention.num_key_value_groups > 1,
        )  # [B, H, Q, K]
        mixed = mixed.transpose(1, 2)[read[:, first:]].flatten(1)  # [S, D]
        hidden = hidden_states[read] + attention.o_proj(mixed)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def lean(language_model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Give a language model this last layer, in place; its weights and their names stay."""
    layers = language_model.model.layers
    layers[-1] = LastLayer(layers[-1])
    return language_model
