# %% [markdown]
# # 05 · Stage 1: learning to be read
#
# **After this notebook you can**
# - train LLaVA's first stage in a few lines, and prove that they are the package's, weight by weight,
# - say how much of a caption can be known without looking, and so what its loss is worth,
# - tell a model that looks from one that has only learned how captions go, by showing it the wrong picture.
#
# **You need** nothing but this repository: no GPU, no network. A loop of a minute runs, and a third of it once more.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. Lit is stage 1, which trains the projector."
from minillava.course import card

card("05")

# %% [markdown]
# CLIP has finished its schooling, and so has the language model. Between them stands a projector of random
# numbers, so the picture arrives as noise. Stage 1, *feature alignment*, repairs that and nothing else: show a
# picture, ask for its caption, and let the error change the projector alone.
#
# A falling loss will tell us that something is learned. Today's question is harder: **is it the picture?**
#
# ## One word you can hold in your hand
# Two pictures; one caption says "It is red.", the other "It is blue." Only the color is in doubt. One model looks
# and is right with a probability of 0.9; another never looks, and says each color with 0.5.
#
# **Predict first:** the model that looks is shown the *other* picture. Is its loss larger or smaller than that of
# the model that never looks?

# %%
import math

truth = ["red", "blue"]
looks = [{"red": 0.9, "blue": 0.1}, {"red": 0.1, "blue": 0.9}]
never_looks = [{"red": 0.5, "blue": 0.5}] * 2


def mean_loss(guesses):
    return sum(-math.log(guess[word]) for guess, word in zip(guesses, truth, strict=True)) / 2


print(f"its own picture {mean_loss(looks):.2f}")
print(f"never looks     {mean_loss(never_looks):.2f}")
print(f"the other's     {mean_loss(looks[::-1]):.2f}")

# %% [markdown]
# Much larger: it is sure, and wrong. Somebody who shuts his eyes pays ln 2 for a coin's toss; somebody who looks
# at the wrong thing pays for his trust. So two losses say together what neither says alone: a *small* one
# with its own picture, a *larger* one with another's, and the gap between the two is there only if the model looks.

# %%
from minillava.course import check, exercise, hint, solution

exercise("05.bits")


# %%
def bits(without, sighted, tokens):
    return NotImplemented


check("05.bits", bits)

# %% [markdown]
# ## A world of 720 captions
# To see something in a minute we train on the simplest pictures that Toybox has: one thing on each. Its caption
# says place, size, color and shape.
#
# **Predict first:** nine places, two sizes, eight colors, six shapes, and eight pairs of color and shape that are
# never drawn. How many captions are there? And what loss, in nats a caption, has a guesser who knows all of this
# and never looks?

# %%
from minillava.toybox import language, records
from minillava.toybox.draw import draw
from minillava.toybox.scene import PLACES, SIZES, trained_kinds

number = len(PLACES) * len(SIZES) * len(trained_kinds())
print(number, "captions")
print("the perfect guesser loses ln", number, "=", round(math.log(number), 2), "nats,")
print("or", round(math.log2(number), 1), "bits: a picture is worth no more")


# %%
def record(split, index):
    scene = records.scene(split, index, most=1)
    human, gpt = f"<image>\n{records.DESCRIBE}", language.caption(scene)
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"id": f"{split}/{index}", "image": draw(scene), "conversations": turns}


training = [record("train", index) for index in range(384)]
held_out = [record("val", index) for index in range(48)]
said = [[made["conversations"][1]["value"] for made in part] for part in (training, held_out)]
print(said[1][0], "| captions in both:", len(set(said[0]) & set(said[1])))

# %% [markdown]
# Nothing else is in doubt: *At the*, the article and the period are always the same, and a model that has learned how
# captions *go* gets them for free. No caption below was trained on: no thing was seen in just this
# place, size, color and shape.
#
# ## What trains
# **Predict first:** the loss is measured at the far end of the language model. Do the language model's weights
# get a gradient on its way back to the projector?

# %%
exercise("05.trains")


# %%
def trains(names):
    return NotImplemented


check("05.trains", trains)

# %%
from dataclasses import replace

import torch
from torch.testing import assert_close

from minillava import checkpoints
from minillava.config import PRESETS
from minillava.data import Collator, InstructionData, InstructionDataset
from minillava.optimization import cosine_with_warmup, freeze
from minillava.training import train_stage

tiny = PRESETS["tiny"]
stage = replace(tiny.stages["stage1"], learning_rate=5e-3, batch_size=16)


def fresh():
    """Both bases as they are shipped, and a projector of random numbers, always the same ones."""
    model = checkpoints.from_bases(tiny.vision_tower, tiny.language_model, seed=0)
    freeze(model, stage)
    return model


# %%
model = fresh()
names = [name for name, _ in model.named_parameters() if name.startswith("multi_modal_projector.")]
assert freeze(model, stage) == names

dataset = InstructionDataset(training, model.tokenizer, "plain", "square", 96, 64)
collate = Collator(model.tokenizer.pad_token_id)
batch = collate([dataset[0], dataset[1]])
model(batch["input_ids"], batch["pixel_values"], batch["attention_mask"], batch["labels"]).loss.backward()
reached = {name: p.numel() for name, p in model.named_parameters() if p.grad is not None}
for name, count in reached.items():
    print(f"{name:<38}{count:>7,}")
print(f"{sum(reached.values()):,} of {sum(p.numel() for p in model.parameters()):,} parameters")

# %% [markdown]
# No. The gradient passes *through* the language model, as light through glass, and leaves nothing there. The
# language model is the judge: it says how each patch's row would have to change for the caption to come more
# easily. That costs a backward pass through all its layers, but no memory for gradients and optimizer, which
# lesson 10 counts.
#
# ## The loop, by hand
# The rest is an ordinary training loop: AdamW, a gradient of length 1 at most, and a learning rate that rises
# briefly and then falls.

# %%
exercise("05.rate")


# %%
def rate(step, warmup, total):
    return NotImplemented


check("05.rate", rate)


# %%
def train(model, batches, watch=lambda step: None):
    projector, total = model.multi_modal_projector, len(batches)
    warmup = math.ceil(stage.warmup_ratio * total)
    optimizer = torch.optim.AdamW(
        projector.parameters(), betas=stage.betas, weight_decay=stage.weight_decay
    )
    for step, batch in enumerate(batches):
        watch(step)
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * cosine_with_warmup(step, warmup, total)
        loss = model(**batch, all_logits=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), stage.max_grad_norm)
        optimizer.step()
    watch(total)


# %% [markdown]
# The tower is frozen and pictures repeat, so their features are computed once; `minillava` does the same.
# **Predict first:** four steps by hand, four steps of `train_stage`, which has Lightning, checkpoints and bars
# around it. Will the projectors agree to the last digit, roughly, or not at all?

# %%
def prepared(batch):
    """A batch as `model(...)` takes it, with features in place of pixels."""
    kept = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    return kept | {"image_features": model.encode_images(batch["pixel_values"])}


loader = InstructionData(dataset, batch_size=16, seed=42).train_dataloader()
batches = [prepared(batch) for batch in loader]  # 24: each caption once
by_hand = fresh()
train(by_hand, batches[:4])

# %% tags=["nbval-ignore-output"]
import sys
import tempfile
from contextlib import redirect_stdout

package = fresh()
with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):  # its bar is not kept
    train_stage(package, stage, training, folder, max_steps=4, trainer={"accelerator": "cpu"})

# %%
ours, theirs = (m.multi_modal_projector.state_dict() for m in (by_hand, package))
start = fresh().multi_modal_projector.state_dict()
for name in start:
    assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours[name], start[name])
print("four steps by hand are the package's:", len(start), "of", len(start), "tensors")

# %% [markdown]
# They agree down to rounding; nothing is hidden in `train_stage` that is not in those lines.
#
# ## Whose picture?
# A fair wrong picture is a real one, and each is used once.

# %%
exercise("05.others")


# %%
def others(number):
    return NotImplemented


check("05.others", others)

# %% [markdown]
# Now the three losses, on the captions held out. "None" leaves out the picture's 64 positions. The first word is
# not counted, since it is always *At*.
#
# **Predict first:** during stage 1, what will happen to the loss *without* a picture?

# %%
whole = prepared(collate([
    InstructionDataset(held_out, model.tokenizer, "plain", "square", 96, 64)[i] for i in range(48)
]))  # fmt: skip
is_text = whole["input_ids"][0] != model.config.image_token_id  # the same in every row
first = (whole["labels"][0] != -100).nonzero()[0]
whole["labels"][:, first] = -100


@torch.no_grad()
def three_losses(model):
    own, text = whole["image_features"], {name: whole[name][:, is_text] for name in list(whole)[:3]}
    shown = {"its own picture": own, "another's picture": own.roll(1, 0)}
    found = {name: model(**whole | {"image_features": seen}).loss.item() for name, seen in shown.items()}
    return found | {"no picture": model(**text, image_features=own[:0]).loss.item()}


# %% tags=["nbval-ignore-output"]
model, curves = fresh(), {}


def watch(step):
    if step % 12 == 0:
        for name, loss in three_losses(model).items():
            steps, losses = curves.setdefault(name, ([], []))
            steps.append(step)
            losses.append(loss)


train(model, batches * 6, watch)  # 144 steps, about a minute

# %% alt="The loss on held-out captions over the steps of stage 1, a line each for the caption's own picture, another's and none. With a picture the two lines first fall together and then part, the own one falling on, the other rising; without a picture the line is flat."
from minillava.plots import loss_curves

own, anothers, none = (curves[name][1] for name in ("its own picture", "another's picture", "no picture"))
assert own[-1] < 0.7 * own[0] and len(own) == 13
assert anothers[-1] - own[-1] > 5 * abs(anothers[0] - own[0])
loss_curves(curves, "held-out captions, as stage 1 trains")

# %%
print("without a picture, before and after: the same", max(none) - min(none) < 1e-6)
print("gap at the start below a fifth of the end's:", abs(anothers[0] - own[0]) < 0.2 * (anothers[-1] - own[-1]))

# %% [markdown]
# Two things happen, and the figure keeps them apart. First the two curves with a picture fall together: *any* picture
# will do, for the projector learns to say "a caption follows". "No picture" is not the fair guesser that it was in
# our two-color world: no question, no system prompt, nothing tells the language model that a caption is wanted. (Even
# the noise of an untrained projector does, a little: see step 0.) Its loss does not move, since nothing that trains
# takes part in it, and it must not be put into `bits`. The fair guesser of 720 captions loses 6.58 nats over the 8
# tokens that are counted, 0.82 a token. The blue curve ends far below that: of the 9.5 bits of a picture nearly all are
# read. But soon the curves **part**. From there on the words depend on what is shown, and a wrong picture costs more and
# more: it speaks of another thing, ever more surely. The gap is the sign of looking; the falling curve alone is not.
#
# What the gap does not show is *what* is read. Listen to it:

# %% tags=["nbval-ignore-output"]
def captions(model, pictures):
    asked = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": None}]
    batch = model.prepare([asked] * len(pictures), [[picture] for picture in pictures], template="plain")
    written = model.generate(**batch, max_new_tokens=20)
    texts = model.tokenizer.batch_decode(written, skip_special_tokens=True)
    return [text.strip().split("\n")[0].split(".")[0] + "." for text in texts]  # the first sentence


pictures = [made["image"] for made in held_out[:24]]
before, after = captions(fresh(), pictures), captions(model, pictures)

# %% tags=["nbval-ignore-output"] alt="Four pictures of one shape each. Under each stand the caption written before the training, the one written after it with a mark for right or wrong, and, where it is wrong, the caption expected."
from minillava.plots import answered_pictures

right = [made["conversations"][1]["value"] for made in held_out[:24]]
shown = range(4)
notes = ["before: " + (before[i].rstrip(".")[:40] or "(nothing)") for i in shown]
answered_pictures([pictures[i] for i in shown], notes, [after[i] for i in shown], [right[i] for i in shown])

# %%
scenes = [records.scene("val", index, most=1).objects[0] for index in range(24)]
asked = {"place": len(PLACES), "size": 2, "color": 8, "shape": 6}


def words_right(texts, attribute):
    wanted = [getattr(thing, attribute) for thing in scenes]
    said = [f" {text.lower().rstrip('.')} " for text in texts]
    return sum(f" {word} " in text for word, text in zip(wanted, said, strict=True))


heard = {name: (words_right(before, name), words_right(after, name)) for name in asked}

# %% tags=["nbval-ignore-output"]
for name, (early, late) in heard.items():
    print(f"{name:<6} right of 24: {early:>2} before, {late:>2} after; a guess gets {24 / asked[name]:.0f}")

# %%
assert sum(late for _, late in heard.values()) > sum(early for early, _ in heard.values())
print("more words are right after 144 steps than before")

# %% [markdown]
# After a minute it writes captions, and nearly all of them are right. It does not learn all of it at once: a run of 96
# steps ends with all places and sizes right, 22 shapes, and 11 colors. (Lesson 02 read color off
# every patch. Read is not yet translated; why it comes last here, we do not know.) How quickly
# it goes is the language model's merit, too: tiny-Vicuna has read *maps*, pictures laid out in symbols in a grid
# (`minillava/pretrain/maps.py`). The more it knows of pictures by hearsay, the less is left to learn. LLaVA-1.5 takes
# 2,181 steps of 256, and even then stage 1 is only a start: on LLaVA-Bench, version 1 without instruction tuning gets
# 21.5 % of the reference's score, and 85.1 % with it (arXiv 2304.08485, table 4). It can caption. It cannot converse.
#
# ## Break it: give every caption the wrong picture
# Train again, a third of the steps, with each batch's pictures moved on by one.
#
# **Predict first:** there is nothing to learn from the pictures now. How far will the loss fall?

# %%
wrong_batches = [b | {"image_features": b["image_features"].roll(1, 0)} for b in batches]
broken = fresh()
train(broken, wrong_batches * 2)
spoiled = three_losses(broken)

# %%
gap = spoiled["another's picture"] - spoiled["its own picture"]
fell, should = own[0] - spoiled["its own picture"], own[0] - own[-1]
assert fell > should / 3
print("it falls at least a third as far as with the right pictures:", fell > should / 3)
print("is there a gap, of a third of the right one at least?", gap > (anothers[-1] - own[-1]) / 3)

# %% [markdown]
# A good part of the way, and no error anywhere: how captions go can be learned from any picture. This happens to real
# data sets, when one of two lists has been sorted. The curve looks healthy, and the gap is what tells. It is
# one extra evaluation; never report a caption's loss without it.
#
# ## Takeaways
# - Stage 1 trains the projector alone, on captions: 20,979,712 numbers in LLaVA-1.5-7B, batches of 256, a rate of
#   1e-3, one epoch of 558K (arXiv 2310.03744; `scripts/v1_5/pretrain.sh`).
# - The gradient goes through the frozen language model; the prompt is the picture and nothing else
#   (`preprocess_plain`).
# - Most of a caption's loss is how captions go. What looking is worth is the gap to somebody else's picture.
# - A stage-1 model captions and does not converse (arXiv 2304.08485, table 4: 21.5 against 85.1).
#
# Next: [06 · Stage 2](06_stage_2.ipynb), in which the model learns to answer.
