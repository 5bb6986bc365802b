"""memory.py: what is kept for the backward pass, against what autograd does keep; the other parts by hand."""

from contextlib import nullcontext

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import LlamaConfig, LlamaForCausalLM

from minillava.config import PRESETS
from minillava.flops import Shapes
from minillava.memory import GB, GPUS, Setup, device_memory, layer_activations
from minillava.shapes import meta_config, stage_size

WIDTH, MLP, HEADS, LENGTH = 64, 172, 4, 48
SHAPES = Shapes(16, 48, 16, 64, 2, WIDTH, MLP, 2, HEADS, WIDTH, 320)


def kept(layers, dtype, trains, autocast, adapted):
    """Bytes of tensors that autograd keeps of a LLaMA of so many layers, its weights aside."""
    sizes = dict(hidden_size=WIDTH, intermediate_size=MLP, num_attention_heads=HEADS, vocab_size=32)
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **sizes)).model.to(dtype)
    model.requires_grad_(trains)
    if adapted:
        import peft

        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        settings = peft.LoraConfig(r=1, lora_dropout=0.5, target_modules=targets)
        peft.inject_adapter_in_model(settings, model)
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.float() if ".lora_" in name else parameter.data
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    copies = {tuple(p.shape) for p in model.parameters() if p.ndim > 1}
    found = {}

    def pack(tensor):
        shape = tuple(tensor.shape)
        if shape not in copies and shape[::-1] not in copies:  # nor autocast's copies of weights
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    embeds = torch.randn(1, LENGTH, WIDTH, dtype=dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            out = model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    assert out.requires_grad
    return sum(size for place, size in found.items() if place not in weights)


@pytest.mark.parametrize(
    ("dtype", "trains", "autocast", "adapted", "sizes"),
    [
        (torch.float32, True, False, False, (4, 4)),  # the tiny preset
        (torch.float32, False, False, False, (4, 4)),
        (torch.bfloat16, False, True, False, (2, 2)),  # stage 1 of the real ones
        (torch.bfloat16, True, False, False, (2, 2)),  # stage 2 in fsdp2's bfloat16
        (torch.float32, True, True, False, (2, 4)),  # stage 2 under autocast, one device
        (torch.bfloat16, False, True, True, (2, 2)),  # LoRA
    ],
)
def test_a_layer_keeps_what_autograd_keeps(dtype, trains, autocast, adapted, sizes):
    options = dtype, trains, autocast, adapted
    found = (kept(4, *options) - kept(2, *options)) / 2 / LENGTH
    wanted = layer_activations(SHAPES, *sizes, trains=trains, adapted=adapted)
    if adapted:  # the mask of dropout has float32 elements on a CPU, and bytes on a GPU
        wanted += 3 * (6 * WIDTH + MLP)
    assert found == pytest.approx(wanted, rel=0.01)


def memory(preset, stage, gpu="a100-80gb", longest=2048, **setup):
    row, size = PRESETS[preset].stage(stage), stage_size(preset, stage)
    shapes = Shapes.of(meta_config(preset))
    return device_memory(shapes, size, row, Setup(GPUS[gpu], **setup), longest), size


def test_sixteen_bytes_a_trained_parameter_and_two_a_frozen_one():
    found, size = memory("llava-1.5-7b", "stage2", devices=8, strategy="fsdp2")
    tower = 303_507_456
    together = found.weights + found.gradients + found.optimizer
    assert together == 16 * size.total_trainable / 8 + 2 * tower
    assert 16 * size.total_trainable == pytest.approx(108 * GB, rel=0.01)  # 7B in mixed precision
    frozen, size = memory("llava-1.5-7b", "stage1", devices=8)
    assert frozen.weights == 2 * (size.total - size.total_trainable) + (4 + 2) * size.total_trainable
    assert (frozen.gradients, frozen.optimizer) == (8 * size.total_trainable, 8 * size.total_trainable)


def test_shards_shrink_with_the_devices_and_copies_do_not():
    eight, sixteen = (
        memory("llava-1.5-7b", "stage2", devices=8, nodes=n, strategy="fsdp2")[0] for n in (1, 2)
    )
    for part in ("gradients", "optimizer"):
        assert getattr(sixteen, part) == getattr(eight, part) / 2
    assert sixteen.gathered == eight.gathered > 0 and sixteen.activations == eight.activations
    whole, again = (memory("llava-1.5-7b", "stage2", devices=n)[0] for n in (8, 1))
    assert whole.gathered == 0 and whole.optimizer == again.optimizer == 8 * eight.optimizer
    assert whole.gradients == 2 * again.gradients  # DDP sums in buckets beside them
    alone = memory("llava-1.5-7b", "stage2", devices=1, strategy="fsdp2")[0]
    assert (alone.gradients, alone.optimizer) == (again.gradients, again.optimizer)  # nobody to share with,
    assert alone.peak < again.peak  # but a layer is cast when its turn comes, and what flows is bfloat16


def test_activations_grow_with_the_batch_and_recomputing_keeps_one_layer():
    fsdp2 = {"devices": 8, "strategy": "fsdp2"}
    one, two = (memory("llava-1.5-7b", "stage2", micro_batch=n, **fsdp2)[0] for n in (1, 2))
    assert two.activations == 2 * one.activations and two.logits == 2 * one.logits
    assert two.weights == one.weights
    again = memory("llava-1.5-7b", "stage2", checkpointing=True, **fsdp2)[0]
    layer = 2048 * layer_activations(Shapes.of(meta_config("llava-1.5-7b")), 2, trains=True)
    assert one.activations - again.activations == 31 * layer - 32 * 2048 * 4096 * 2


def test_logits_are_three_float32_tables_of_the_positions_that_may_be_learned():
    assert memory("llava-1.5-7b", "stage2")[0].logits == 3 * 4 * 2048 * 32064
    assert memory("llava-1.5-7b", "stage1", longest=600)[0].logits == 3 * 4 * (600 - 576) * 32064


def test_autocasts_copies_are_gone_at_the_optimizers_step():
    """By torch: what the forward pass has cast is kept for the backward pass, and no longer."""
    layer, copies = torch.nn.Linear(8, 8, bias=False), []

    def pack(tensor):
        if tensor.dtype is torch.bfloat16 and tensor.shape == (8, 8):
            copies.append(StorageWeakRef(tensor.untyped_storage()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(torch.randn(2, 8, requires_grad=True)).sum()
    assert copies and not any(copy.expired() for copy in copies)
    loss.backward()
    assert all(copy.expired() for copy in copies)


def test_a_7b_trains_whole_on_one_h200_if_it_recomputes():
    found, size = memory("llava-1.5-7b", "stage2", "h200", checkpointing=True)
    vocabulary = 32064 * 4096
    lasting = 4 * size.total_trainable + 2 * (size.total - size.total_trainable)
    copies = 2 * (size.total_trainable - vocabulary)  # autocast's; the embedding's rows are not cast
    assert found.weights == pytest.approx(lasting + copies)
    assert found.peak <= GPUS["h200"].memory


@pytest.mark.parametrize(
    ("stage", "samples", "length", "options", "found"),
    [
        ("stage1", 16, 600, {}, 54.8),
        ("stage1", 16, 600, {"compiled": True}, 43.0),
        ("stage2", 4, 820, {"strategy": "fsdp2"}, 130.4),
        ("stage2", 4, 820, {"strategy": "fsdp2", "compiled": True}, 124.8),
    ],
)
def test_it_is_what_an_h200_held(stage, samples, length, options, found):
    """GB of tensors at their most (benchmarks/README.md, "On a GPU")."""
    planned, _ = memory("llava-1.5-7b", stage, "h200", length, micro_batch=samples, **options)
    assert found * GB <= planned.peak - planned.runtime <= 1.04 * found * GB


def test_gpus_are_quoted_dense():
    assert GPUS["a100-80gb"].peak("bf16-mixed") == 312e12 and GPUS["a100-80gb"].peak("32-true") == 19.5e12
    assert GPUS["h100-80gb"].bfloat16 == GPUS["h200"].bfloat16 == 1979e12 / 2 // 1e12 * 1e12
    assert all(gpu.source and gpu.bfloat16 > gpu.float32 for gpu in GPUS.values())
