# %% [markdown]
# # 10 · Scale: the same code on eight A100s
#
# **After this notebook you can**
# - count the parameters, bytes, operations and hours of a LLaVA before anything is rented or downloaded,
# - say why stage 1 fits where stage 2 does not, and what shards and LoRA change,
# - write the command, and tell from one number whether the machine does its work: its MFU, *model FLOPs utilization*.
#
# **You need** nothing but this repository. Where there is a GPU, the last part trains on it; where there is none,
# it says so, and everything else is the same.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. All of it is lit."
from minillava.course import card

card("10")

# %% [markdown]
# Everything so far ran on a laptop, and nothing in it was a toy: LLaVA-1.5-7B is the same classes with other
# numbers in a table. What is new at scale is that a mistake costs a day of eight GPUs. So today we calculate.
#
# ## Six weights you can hold in your hand
# One matrix, 3 in and 2 out, trained with AdamW in float32.
#
# **Predict first:** six weights of 4 bytes are 24 bytes. How many bytes are there after the first step?

# %%
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

layer = nn.Linear(3, 2, bias=False)
optimizer = torch.optim.AdamW(layer.parameters())
layer(torch.ones(4, 3)).sum().backward()
optimizer.step()

state = optimizer.state[layer.weight]
held = {"weight": layer.weight, "gradient": layer.weight.grad,
        "average of gradients": state["exp_avg"], "and of their squares": state["exp_avg_sq"]}  # fmt: skip
for name, tensor in held.items():
    print(f"{name:<22}{tensor.nbytes:>3} bytes")
print("together", sum(tensor.nbytes for tensor in held.values()))

# %% [markdown]
# Four times as many: 16 bytes a weight. A weight that is frozen can stay in bfloat16, 2 bytes, and has none of the
# rest.

# %%
from minillava.course import check, exercise, hint, solution

exercise("10.memory")


# %%
def memory(trained, frozen):
    return NotImplemented


check("10.memory", memory)

# %% [markdown]
# And the work? A product of `[4, 3]` and `[3, 2]` is 4 × 3 × 2 multiplications and as many additions.
#
# The backward pass brings a gradient of the output and makes two of it: that of the input, to be passed on, and that
# of the weights. Each is a product of the same size.
#
# **Predict first:** forward it is 48 operations. How many with the backward pass, if the matrix is trained? And if
# it is frozen, but what came before it is trained?

# %%
for trained in (True, False):
    layer.requires_grad_(trained)
    with FlopCounterMode(display=False) as counter:
        layer(torch.ones(4, 3, requires_grad=True)).sum().backward()
    print("trained" if trained else "frozen ", counter.get_total_flops(), "operations")

# %% [markdown]
# Three products when it is trained: output, gradient of the input, gradient of the weights. Frozen, it still has to
# pass the gradient on, but needs none of its own. The language model in stage 1 is such a matrix.

# %%
exercise("10.flops")


# %%
def flops(weights, positions, trained):
    return NotImplemented


check("10.flops", flops)

# %% [markdown]
# ## Thirteen billion parameters in no memory
# PyTorch's **meta device** keeps a tensor's shape and no numbers.
#
# **Predict first:** of LLaVA-1.5-7B, how much is the vision tower: a half, a tenth, or less?

# %%
from minillava.shapes import PARTS, meta_model, stage_size

models = {name: meta_model(name) for name in ("tiny", "llava-1.5-7b", "llava-1.5-13b")}
for name, model in models.items():
    counts = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in PARTS[:3]}
    print(f"{name:<14}", *(f"{part} {count:,} " for part, count in counts.items()))

# %%
model = models["llava-1.5-7b"]
V, D, MLP, L = 32064, 4096, 11008, 32  # vocabulary, filled up to 64s; width; MLP; layers
attention, gates, norms = 4 * D * D, 3 * D * MLP, 2 * D
by_hand = 2 * V * D + L * (attention + gates + norms) + D  # embeddings and head; layers; last norm
assert_close(by_hand, sum(p.numel() for p in model.language_model.parameters()))
print(f"the language model by hand: {by_hand:,}")
print("device:", next(model.parameters()).device)

# %% [markdown]
# Less: 4 % is what sees, 0.3 % is the projector, and the rest reads and writes. Counting is exact here; what a meta
# model does not show is whether it would *learn*.
#
# ## LoRA: train less
# Stage 2 has a cheaper sister. Leave W frozen and train a narrow detour beside it: W x + (α / r) B (A x), where A
# brings the width down to r and B up again, and α is a constant that one chooses. B starts at zero, so nothing
# changes at first.
#
# **Predict first:** after training, must the detour be kept?

# %%
from minillava.lora import fold

W = torch.tensor([[1.0, 2, 0], [0, 1, 1]])
A, B, scaling = torch.tensor([[1.0, 0, -1]]), torch.tensor([[0.5], [1.0]]), 2.0  # r = 1, alpha = 2
x = torch.tensor([3.0, 1.0, 2.0])
beside = W @ x + scaling * (B @ (A @ x))
assert_close((W + scaling * B @ A) @ x, beside)
assert_close(fold(W, A, B, scaling), W + scaling * B @ A)
print("beside", beside.tolist(), "folded in", (fold(W, A, B, scaling) @ x).tolist())

r = 128
lora = L * (4 * r * (D + D) + 3 * r * (D + MLP))  # q, k, v, o; gate, up, down
print(f"adapters of LLaVA-1.5-7B by hand: {lora:,}")

# %%
sizes = {stage: stage_size("llava-1.5-7b", stage) for stage in ("stage1", "stage2", "stage2-lora")}
assert sizes["stage2-lora"].trainable["adapters"] == lora
assert sizes["stage1"].total_trainable == 20_979_712
for stage, size in sizes.items():
    frozen = size.total - size.total_trainable
    needed = 16 * size.total_trainable + 2 * frozen
    print(f"{stage:<12}{size.total_trainable:>14,} trained   {needed / 1e9:>5.0f} GB, {size.steps:,} steps")

# %% [markdown]
# No: folded in, it is one matrix again. Look at the gigabytes. An A100 has 40 or 80. Stage 1 and LoRA leave room on
# either; stage 2 fits on neither, before the first sample has come.
#
# ## What comes on top
# For the backward pass each layer keeps what it computed, for every position of every sample. `minillava.plan` adds
# it all up, part by part, from the same formulas. A plan is arithmetic; `tests` hold it to models that were run.
#
# **Predict first:** eight GPUs can hold the model eight times (*copies*, `ddp`, which stands for distributed data
# parallel), or once, in eighths (*shards*, `fsdp2`), with every piece fetched when it is needed. Which parts of the
# memory get smaller then?

# %%
from minillava.plan import plan_stage

setups = {
    "stage 1": ("stage1", "ddp"),
    "stage 2, whole": ("stage2", "ddp"),
    "stage 2, shards": ("stage2", "fsdp2"),
    "stage 2, LoRA": ("stage2-lora", "ddp"),
}
plans = {
    name: plan_stage("llava-1.5-7b", stage, "a100-80gb", 8, strategy=strategy, micro_batch=4)
    for name, (stage, strategy) in setups.items()
}

# %% alt="Stacked bars of the memory that one GPU needs for LLaVA-1.5-7B: stage 1, and stage 2 held whole, in shards and with LoRA, beside lines at 40 and 80 GB. Held whole, stage 2 is by far the longest and the optimizer a large part of it; shards take most of that away."
from minillava.course.figures import memory_bars

table = {}
for name, plan in plans.items():
    held = {part: size / 1e9 for part, size in vars(plan.memory).items()}
    table[name] = {part: held.pop(part) for part in ("weights", "gradients", "optimizer", "activations")}
    table[name]["the rest"] = sum(held.values())
assert table["stage 2, whole"]["optimizer"] > 7 * table["stage 2, shards"]["optimizer"]
assert abs(table["stage 2, whole"]["optimizer"] - 8 * sizes["stage2"].total_trainable / 1e9) < 0.01
memory_bars(table, (40, 80), "LLaVA-1.5-7B, 4 samples on each of 8 GPUs")

# %%
for name, plan in plans.items():
    print(f"{name:<15}{plan.memory.peak / 1e9:>4.0f} GB at its fullest; fits: {plan.fits}")

# %% [markdown]
# The optimizer shrinks to an eighth, weights and gradients to even less. (Whole, these two take more than the 4 bytes
# a weight that we counted: mixed precision (`autocast`) keeps copies of the weights in bfloat16, and
# DDP a second set of gradients.)
# Activations stay large, since each GPU has its own samples. They are the price of a *batch* (the plan takes the
# longest samples, 768 positions in stage 1 and 2,048 in stage 2), and LoRA pays it too, adapters and all. They can be
# had back for work: with `--activation-checkpointing` a layer's activations are thrown away and computed again. LLaVA
# does so in both stages.
#
# ## Keep the batch
# 256 samples make a step of stage 1, on whatever it runs.

# %%
exercise("10.passes")


# %%
def passes(batch, devices, micro_batch):
    return NotImplemented


check("10.passes", passes)

# %% [markdown]
# ## How long?
# **Predict first:** a 7B reads 600 positions of picture and caption in stage 1. How many operations is that: some
# billions, some trillions?

# %%
from minillava.flops import Shapes, sample_flops
from minillava.shapes import meta_config

T, N, V_D, V_MLP, V_L, PATCH = 600, 576, 1024, 4096, 23, 3 * 14 * 14
vision = V_L * (2 * (N + 1) * (4 * V_D**2 + 2 * V_D * V_MLP) + 4 * (N + 1) ** 2 * V_D)
vision += 2 * N * PATCH * V_D  # pixels to patches
projector = 2 * 2 * N * (V_D * D + D * D) + 2 * N * D * D  # forward, its weights, its second layer's input
layers = 2 * 2 * T * L * (attention + gates)  # frozen: forward and on
scores = 3 * 4 * L * T * T * D  # positions against positions; both factors need a gradient
head = 2 * 2 * T * D * V
by_hand = vision + projector + layers + scores + head

shapes = Shapes.of(meta_config("llava-1.5-7b"))
package = sample_flops(shapes, T, trains=("multi_modal_projector",))
assert_close(float(by_hand), float(package.model))
print(f"{by_hand / 1e12:.1f} trillion operations a sample, {layers / by_hand:.0%} of them in the layers")

# %% [markdown]
# Seventeen trillion, for one picture and its caption, and the picture has 576 of the 600 positions. An A100 promises
# 312 trillion a second in bfloat16. How much of its promise a machine keeps is called **MFU**.

# %%
exercise("10.hours")


# %%
def hours(operations, devices, peak, mfu):
    return NotImplemented


check("10.hours", hours)

# %% [markdown]
# **Predict first:** LLaVA's README reports 3.5 and 10 hours for the stages of 7B, on eight A100s. What share of the
# promise was that: nine tenths, a half, or less?

# %%
for preset in ("llava-1.5-7b", "llava-1.5-13b"):
    for stage in ("stage1", "stage2"):
        plan = plan_stage(preset, stage, "a100-80gb", 8, checkpointing=True, mfu=0.5)
        by_hand = plan.flops.model / (8 * 312e12 * 0.5) / 3600
        assert_close(by_hand, plan.hours)
        theirs = f"reported {plan.reported.hours:g} h: {plan.implied_mfu:.0%} MFU"
        print(f"{preset:<14}{stage:<8}{plan.hours:>5.1f} h at 50 % MFU; {theirs}")

# %% [markdown]
# A quarter to a good third. This is no blame: the rest goes into recomputing, into waiting for shards and for the
# slowest GPU, into filling (lesson 06), and the lengths of the samples are assumed here, so ten percent either way
# mean little. It says where to look. Wherever you train, compute this number in the first ten minutes.
#
# ## The command
# The plan knows the rest.

# %%
import shlex

from minillava.cli import build_parser

plan = plan_stage("llava-1.5-7b", "stage2", "a100-80gb", 8, checkpointing=True)
setup = plan.setup
command = (
    "minillava train stage2 --preset llava-1.5-7b --data llava_v1_5_mix665k.json --image-root images "
    f"--run-dir runs/7b --devices {setup.devices} --strategy {setup.strategy} "
    f"--device-batch {setup.micro_batch} --activation-checkpointing"
)
arguments = build_parser().parse_args(shlex.split(command)[1:])
assert arguments.device_batch * arguments.devices * plan.passes == plan.stage.batch_size
print(command.replace(" --", " \\\n    --"))

# %% [markdown]
# Stage 1 goes before it, with its own data and without shards. Interrupted, the same command goes on. It holds
# no number of the recipe: rates, batch, warm-up and template belong to the preset.
#
# ## Here, now
# The tiny model, ten steps of stage 2, on what this machine has. **Predict first:** what share of its promise will
# this machine keep: nearer to 5 %, or to 50 %?

# %% tags=["nbval-ignore-output"]
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace

from minillava.config import PRESETS
from minillava.plan import this_machine
from minillava.toybox import records

PEAKS = {"A100": 19.5e12, "H100": 67e12, "H200": 67e12}  # float32 outside of the tensor cores, data sheets
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
peak = next((p for name, p in PEAKS.items() if name in gpu), None) if gpu else this_machine().float32

tiny = PRESETS["tiny"]
stage = replace(tiny.stages["stage2"], learning_rate=1e-5)
mix = [records.instruction_record("train", index) for index in range(10 * stage.batch_size)]

# %% tags=["nbval-ignore-output"]
import minillava
from minillava.data import InstructionDataset
from minillava.training import train_stage

model = minillava.load("tiny")
dataset = InstructionDataset(mix, model.tokenizer, "v1", "pad", 96, 64, pixels=False)
with redirect_stdout(sys.stderr):
    result = train_stage(model, stage, mix, tempfile.mkdtemp())  # a GPU, where there is one
shapes = Shapes.of(model.config)
work = sum(
    sample_flops(shapes, len(sample["input_ids"]), len(sample["image_keys"]), stage.trains).model
    for sample in dataset
)
print("on", gpu or "the processor: there is no GPU here")
if peak:
    mfu = work / result.seconds / peak
    print(f"MFU {mfu:.1%}", file=sys.stderr)  # yours, now; the notebook does not keep it
    print("MFU nearer to", "50 %" if mfu > (0.05 + 0.5) / 2 else "5 %")

# %%
assert result.steps == 10 and all(torch.isfinite(p).all() for p in model.parameters())
print("ten steps on this machine, all weights finite")

# %% [markdown]
# The promise of a processor is small, and a good part of it can be kept; a GPU would be kept waiting by models of
# this size. (Run the cell, and it says your number.) Read it as an order of magnitude. The run is short, and loading,
# decoding and saving are counted in it; a processor's promise is measured, in products of 1,024 × 1,024, and if
# something else ran at that moment it was measured too low. That is the trouble with MFU everywhere: ask what was
# counted, and against which peak. (One of ours: a pass of stage 1 in 7B's shapes kept an H200 at 42 % of its data
# sheet's promise, and at 55 % with `--compile`; `benchmarks/README.md` says how.)
#
# And the real weights? Where llava-1.5-7b-hf has been downloaded and a GPU has room for it, this cell loads and asks
# it. It is the same `load` and the same `answer`.

# %% tags=["nbval-ignore-output"]
from huggingface_hub import try_to_load_from_cache

from minillava.toybox.draw import draw

hub = PRESETS["llava-1.5-7b"].finished
found = try_to_load_from_cache(hub, "config.json")
if isinstance(found, str) and gpu:
    real = minillava.load(hub, dtype=torch.bfloat16).to("cuda")
    print(real.answer(draw(records.scene("val", 41)), "What is in the picture?", max_new_tokens=64))
else:
    print(f"{hub}: not run, for there are no weights here, or no GPU. On the meta device it has")
    print(f"{sum(p.numel() for p in models['llava-1.5-7b'].parameters()):,} parameters.")

# %% [markdown]
# ## Break it: a plan that cannot work
# Three ways to lose a morning. **Predict first:** which of the three can be told before anything is rented?

# %%
for name, options in {
    "stage 2 on one card": {"gpu": "a100-80gb", "devices": 1},
    "a batch that does not come out": {"devices": 8, "micro_batch": 24},
    "shards of what does not train": {"devices": 8, "strategy": "fsdp2", "stage": "stage1"},
}.items():
    stage = options.pop("stage", "stage2")
    try:
        plan_stage("llava-1.5-7b", stage, **options).raise_if_too_large()
    except ValueError as error:
        print(f"{name}:\n  {error}")

# %% [markdown]
# All of them, if one asks first. Each costs a second here; the first is the classic, which on the machine is an
# "out of memory" after the weights have been loaded. What a plan cannot foresee is a *slow* machine, a full disk on
# another node, or data that are broken; for the last there is `minillava inspect` (lesson 04; without
# `--index` it is lesson 01's audit).
#
# ## Takeaways
# - Trained, a parameter takes 16 bytes and 6 operations a position; frozen, 2 bytes and 4 operations.
# - LLaVA-1.5-7B: 20,979,712 of 7 billion train in stage 1, all but the tower in stage 2, 319,815,680 and the
#   projector with LoRA (arXiv 2310.03744; scripts/v1_5; LoRA: arXiv 2106.09685).
# - Shards divide weights, gradients and optimizer; only smaller passes or recomputing shrink activations.
# - Hours are operations over what the machines keep of their promise. LLaVA's README: 3.5 + 10 hours for 7B.
#
# Here the course ends. (Lessons 08, judging, and 09, ablations, are still to be written.) Take a data set of your
# own: lesson 01 audits it, lesson 04 shows its mask, lesson 05 tells whether it looks, and the command above is the
# rest.
