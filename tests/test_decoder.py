"""The decoder without padding or repetition, its last layer where it is read: LLaMA's numbers, less work."""

from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from minillava import decoder
from minillava.decoder import decode, packable
from minillava.prefix import shared_length

LENGTH, WIDTH = 12, 32


@pytest.fixture(params=[4, 2], ids=["heads", "grouped heads"])
def pair(request):
    """(LLaMA as it comes, the same weights in our layers)"""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=request.param,
    )
    torch.manual_seed(0)
    whole = LlamaForCausalLM(config)
    torch.manual_seed(1)
    other = packable(LlamaForCausalLM(config))
    other.load_state_dict(whole.state_dict())
    return whole, other


def rows(*spans):
    """[B, T], true from a to b in sample after sample."""
    found = torch.zeros(len(spans), LENGTH, dtype=torch.bool)
    for row, (a, b) in zip(found, spans, strict=True):
        row[a:b] = True
    return found


READ = rows((4, 7), (8, 11), (0, 0))
FULL = rows((0, LENGTH), (0, LENGTH), (0, LENGTH))
PADDED = rows((0, LENGTH), (0, 11), (0, 6)).long()
LEFT = rows((3, LENGTH), (1, LENGTH), (0, LENGTH)).long()


@pytest.mark.parametrize("shared", [0, 2], ids=["nothing shared", "a common beginning"])
@pytest.mark.parametrize("read", [READ, FULL], ids=["some", "all"])
@pytest.mark.parametrize("mask", [None, PADDED, LEFT], ids=["no mask", "padded right", "padded left"])
def test_values_and_gradients_are_llamas(pair, mask, read, shared):
    real = torch.ones_like(read) if mask is None else mask.bool()
    place = real.cumsum(dim=1)  # from 1
    beginning = real & (place <= shared)
    read = read & real & ~beginning
    found = []
    for model, lean in zip(pair, (False, True), strict=True):
        generator = torch.Generator().manual_seed(2)
        embeddings = torch.randn(3, LENGTH, WIDTH, generator=generator).requires_grad_()
        common = torch.randn(shared, WIDTH, generator=generator).requires_grad_()
        inputs = embeddings.masked_scatter(beginning[..., None], common.repeat(3, 1))
        if lean:
            hidden = decode(model, inputs, mask, read, shared)
        else:
            hidden = model.model(inputs_embeds=inputs, attention_mask=mask, use_cache=False)[0][read]
        hidden.square().sum().backward()
        learned = (embeddings, common, *model.model.layers.parameters())
        found.append((hidden, *(parameter.grad for parameter in learned)))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def by_the_definition(query, key, value, queries, keys, *_, scale, window_size):
    """FlashAttention's call for documents of [n, H, K], whose last query goes with its last key."""
    assert window_size == (-1, 0)
    found = []
    for (q0, q1), (k0, k1) in zip(pairwise(queries.tolist()), pairwise(keys.tolist()), strict=True):
        seen = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool).tril(k1 - k0 - (q1 - q0))
        q, k, v = (x.transpose(0, 1) for x in (query[q0:q1], key[k0:k1], value[k0:k1]))
        found.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale).transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("pair", [4], indirect=True)
@pytest.mark.parametrize("shared", [0, 2])
def test_all_documents_at_once_are_the_same(pair, shared, monkeypatch):
    _, model = pair
    embeddings, found = torch.randn(3, LENGTH, WIDTH), []
    read = READ & PADDED.bool()
    for together in (False, True):
        monkeypatch.setattr(decoder, "flashes", lambda *_, together=together: together)
        monkeypatch.setattr(decoder, "varlen_attn", by_the_definition)
        inputs = embeddings.clone().requires_grad_()
        hidden = decode(model, inputs, PADDED, read, shared)
        found.append((hidden, torch.autograd.grad(hidden.square().sum(), inputs)[0]))
    for apart, together in zip(*found, strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_unasked_they_are_llamas_layers_to_the_bit(pair):
    whole, other = pair
    ids = torch.arange(LENGTH)[None]
    assert torch.equal(other(ids).logits, whole(ids).logits)
    assert len(other(ids, output_hidden_states=True).hidden_states) == 3
    assert torch.equal(other.generate(ids, max_new_tokens=4), whole.generate(ids, max_new_tokens=4))
    assert other.state_dict().keys() == whole.state_dict().keys()
    assert all(isinstance(layer, LlamaDecoderLayer) for layer in other.model.layers)


def test_gradient_checkpointing_changes_nothing(pair):
    _, model = pair
    model.train()
    gradients = []
    for again in (False, True):
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        embeddings = torch.ones(3, LENGTH, WIDTH, requires_grad=True)
        hidden = decode(model, embeddings, PADDED, READ & PADDED.bool())
        gradients.append(torch.autograd.grad(hidden.square().sum(), embeddings)[0])
    assert torch.equal(*gradients)


def test_compiled_layers_are_the_same_whatever_the_lengths(pair, monkeypatch):
    _, model = pair
    compiled = partial(torch.compile, backend="aot_eager")  # the same graphs, without a C++ compiler
    monkeypatch.setattr(torch, "compile", compiled)
    found = []
    for layers in ("as they come", "compiled"):
        if layers == "compiled":
            decoder.compile_layers(model)
        for mask, shared in ((PADDED, 2), (LEFT, 0), (None, 0)):
            embeddings = torch.linspace(-1, 1, 3 * LENGTH * WIDTH).view(3, LENGTH, WIDTH).requires_grad_()
            read = READ if mask is None else READ & mask.bool()
            hidden = decode(model, embeddings, mask, read, shared)
            found += [hidden, torch.autograd.grad(hidden.square().sum(), embeddings)[0]]
    for plain, fused in zip(found[:6], found[6:], strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)
    decoder.release_layers(model)
    decoder.release_layers(model)  # as after a training that ended before it had compiled
    assert not any({"before", "after"} & vars(layer).keys() for layer in model.model.layers)


def flops(model, mask, read, shared=0):
    with FlopCounterMode(display=False) as counter:
        decode(model, torch.randn(3, LENGTH, WIDTH), mask, read, shared)
    return counter.get_total_flops()


def test_it_costs_what_is_real_and_read(pair):
    """Padding costs nothing, nor does a beginning again, and of the last layer's weights only keys' and
    values' meet every row."""
    _, model = pair
    one = rows((0, 1), (0, 1), (0, 1))
    layer = model.model.layers[-1]
    offered = layer.self_attn.k_proj.weight.numel() + layer.self_attn.v_proj.weight.numel()
    weights = sum(p.numel() for p in layer.parameters() if p.ndim > 1)
    assert flops(model, None, FULL) - flops(model, None, one) >= 2 * 3 * (LENGTH - 1) * (weights - offered)
    padding = 3 * LENGTH - int(PADDED.sum())
    assert flops(model, None, one) - flops(model, PADDED, one) >= 2 * padding * (weights + offered)
    again = 2 * 2  # two positions of two samples, in whose place the first sample's stand
    last = rows(*[(LENGTH - 1, LENGTH)] * 3)
    assert flops(model, None, last) - flops(model, None, last, 2) >= 2 * again * (weights + offered)


def test_a_beginning_is_shared_up_to_what_is_learned_or_a_picture():
    ids = torch.tensor([[1, 5, 6, 7, 8, 9], [1, 5, 6, 7, 8, 2], [1, 5, 6, 7, 0, 0]])
    mask = torch.tensor([[1] * 6, [1] * 6, [1] * 4 + [0] * 2])
    assert shared_length(ids, mask) == 3  # the last token of the shortest is left to it
    until = torch.zeros(3, 6, dtype=torch.bool)
    until[1, 2] = True
    assert shared_length(ids, mask, until) == 2
    left, moved = ids.clone(), mask.clone()  # and with the shortest padded on the left
    left[2], moved[2] = ids[2].roll(2), mask[2].roll(2)
    assert shared_length(left, moved) == 3
