"""The last layer at the rows that are read: the same numbers as LLaMA's own layer, and less work."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from minillava.readout import LastLayer, lean

LENGTH = 12


@pytest.fixture(params=[4, 2], ids=["heads", "grouped heads"])
def pair(request):
    """(LLaMA as it comes, the same weights with the last layer replaced)"""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=request.param,
    )
    torch.manual_seed(0)
    whole = LlamaForCausalLM(config)
    torch.manual_seed(1)
    other = lean(LlamaForCausalLM(config))
    other.load_state_dict(whole.state_dict())
    return whole, other


def rows(*spans):
    """[B, T], true from a to b in sample after sample."""
    read = torch.zeros(len(spans), LENGTH, dtype=torch.bool)
    for row, (a, b) in zip(read, spans, strict=True):
        row[a:b] = True
    return read


READ = rows((4, 7), (8, 11), (0, 0))
PADDED = (~rows((0, 0), (11, 12), (6, 12))).long()
LEFT = (~rows((0, 3), (0, 1), (0, 0))).long()


@pytest.mark.parametrize("read", [READ, rows((0, LENGTH), (0, LENGTH), (0, LENGTH))], ids=["some", "all"])
@pytest.mark.parametrize("mask", [None, PADDED, LEFT], ids=["causal", "padded right", "padded left"])
def test_values_and_gradients_are_llamas(pair, mask, read):
    found = []
    for model in pair:
        embeddings = torch.randn(3, LENGTH, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()
        is_lean = isinstance(model.model.layers[-1], LastLayer)
        options = {"read": read} if is_lean else {}
        hidden = model.model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False, **options)[0]
        hidden = hidden if is_lean else hidden[read]
        real = hidden[mask[read] == 1] if mask is not None else hidden  # rows of padding mean nothing
        real.square().sum().backward()
        found.append((real, embeddings.grad, *(p.grad for p in model.model.layers.parameters())))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_unasked_it_is_llamas_layer_to_the_bit(pair):
    whole, other = pair
    ids = torch.arange(LENGTH)[None]
    assert torch.equal(other(ids).logits, whole(ids).logits)
    hidden = other(ids, output_hidden_states=True).hidden_states
    assert len(hidden) == 3
    assert torch.equal(other.generate(ids, max_new_tokens=4), whole.generate(ids, max_new_tokens=4))
    assert other.state_dict().keys() == whole.state_dict().keys()
    assert isinstance(other.model.layers[-1], LlamaDecoderLayer)


def test_gradient_checkpointing_changes_nothing(pair):
    _, model = pair
    model.train()
    gradients = []
    for again in (False, True):
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        embeddings = torch.ones(3, LENGTH, 32, requires_grad=True)
        hidden = model.model(inputs_embeds=embeddings, use_cache=False, read=READ)[0]
        gradients.append(torch.autograd.grad(hidden.square().sum(), embeddings)[0])
    assert torch.equal(*gradients)


def test_it_costs_what_is_read(pair):
    """Of a layer's weights only those of keys and values meet every row."""
    _, model = pair
    costs = []
    for read in (rows((LENGTH - 1, LENGTH)), None):
        with FlopCounterMode(display=False) as counter:
            model.model(inputs_embeds=torch.randn(1, LENGTH, 32), use_cache=False, read=read)
        costs.append(counter.get_total_flops())
    layer = model.model.layers[-1]
    spared = [layer.self_attn.q_proj, layer.self_attn.o_proj, *layer.mlp.children()]
    weights = sum(part.weight.numel() for part in spared if hasattr(part, "weight"))
    assert costs[1] - costs[0] >= 2 * (LENGTH - 1) * weights
