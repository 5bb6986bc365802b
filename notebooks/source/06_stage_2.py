# %% [markdown]
# # 06 · Stage 2: learning to answer
#
# **After this notebook you can**
# - say what stage 2 trains, in which order it reads its records, and what its loss is a mean of,
# - run both stages yourself, in two minutes, and watch answers come out,
# - read a table of accuracies beside its baselines, and find what the training did *not* teach.
#
# **You need** nothing but this repository: no GPU, no network. The two training cells take most of the time.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. Lit is stage 2, which trains the projector and the language model."
from minillava.course import card

card("06")

# %% [markdown]
# After stage 1 a picture can be read, but the model has never been asked anything about one. Stage 2, *visual
# instruction tuning*, goes through conversations and trains the projector **and the whole language model**. It is
# where LLaVA gets its name, and nearly all of its skill: on LLaVA-Bench 85.1 % of the reference's score, where the
# model without it gets 21.5 % (arXiv 2304.08485, table 4).
#
# ## Eight tokens you can hold in your hand
# One sample answers in two tokens, with losses of 2 and 1; another describes in six, each with a loss of 0.5. The
# loss of a batch is the mean over all *tokens* in it.
#
# **Predict first:** both samples count once. How much *weight* has the description in that mean: a half, or more?

# %%
short, long = [2.0, 1.0], [0.5] * 6

tokens = sum(short + long) / len(short + long)
samples = (sum(short) / len(short) + sum(long) / len(long)) / 2
print("mean over tokens ", tokens)
print("mean over samples", samples)
print("tokens that are the description's: 6 of 8")

# %% [markdown]
# Three quarters, six tokens of eight: who says more is heard more. (Of the loss's *value* it makes up a half, since
# each of its tokens lost little.) Neither mean is the right one; but which one is taken is a part of
# the recipe. And it is easily changed by accident. A batch too large for the memory is cut into **passes**, whose
# gradients are averaged:

# %%
from minillava.course import check, exercise, hint, solution

exercise("06.loss")


# %%
def accumulated(passes):
    return NotImplemented


check("06.loss", accumulated)

# %% [markdown]
# Now with the real model: a short answer and a description, together and one by one.

# %%
import torch
from torch.testing import assert_close

import minillava
from minillava.data import Collator, InstructionDataset
from minillava.toybox import language, records
from minillava.toybox.draw import draw

model = minillava.load("tiny")
scene = records.scene("val", 41)


def made(question, answer):
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": question, "image": draw(scene), "conversations": turns}


two = [made("What color is the triangle?", "black"), made(records.DESCRIBE, language.caption(scene))]
dataset = InstructionDataset(two, model.tokenizer, "v1", "pad", 96, 64)
collate = Collator(model.tokenizer.pad_token_id)


# %%
@torch.no_grad()
def loss_of(samples):
    names = ("input_ids", "pixel_values", "attention_mask", "labels")
    batch = collate(samples)
    return model(*(batch[name] for name in names[:3]), labels=batch["labels"]).loss


learned = [int((sample["labels"] != -100).sum()) for sample in dataset]
apart = [loss_of([sample]) for sample in dataset]
by_hand = sum(count * loss for count, loss in zip(learned, apart, strict=True)) / sum(learned)
assert_close(by_hand, loss_of(list(dataset)), atol=1e-5, rtol=1e-4)
print("learned tokens:", learned, "-> the batch's loss is their mean, weighed by these numbers")

# %% [markdown]
# The same arithmetic, down to rounding. A description weighs many times what a word does, and LLaVA-1.5 has both
# in its mix. (`train_stage` averages over passes as the original does, so a batch that is cut otherwise is,
# strictly, another recipe.)
#
# ## What trains, and how carefully
# **Predict first:** stage 1 runs at a learning rate of 1e-3. In stage 2 the language model trains too, and it
# already knows something. A larger rate, or a smaller one?

# %%
from minillava.config import PRESETS
from minillava.optimization import freeze

for name in ("stage1", "stage2"):
    stage = PRESETS["llava-1.5-7b"].stages[name]
    freeze(model, stage)
    counts = {part: sum(p.numel() for p in module.parameters() if p.requires_grad)
              for part, module in model.named_children()}  # fmt: skip
    print(name, "rate", stage.learning_rate, "batch", stage.batch_size, "| trained in tiny-LLaVA:", counts)
embeddings = model.language_model.get_input_embeddings().weight
print("embeddings and head, too:", embeddings.requires_grad and model.language_model.lm_head.weight.requires_grad)

# %% [markdown]
# Fifty times smaller. A projector of random numbers has nothing to lose; Vicuna does. The vision tower stays
# frozen in both stages. (Our tiny preset has higher rates: its models are small, and have minutes.)
#
# ## One picture, many questions
# Most of LLaVA-1.5's data are short questions, many to a picture.

# %%
exercise("06.merge")


# %%
def positions(rounds, merged):
    return NotImplemented


check("06.merge", positions)

# %% [markdown]
# ## In which order?
# A batch is filled up to its longest sample. And one in sixteen records has no picture at all: beside samples with
# 576 positions of picture it would be mostly filling. LLaVA puts like with like; one would think, in order to fill
# less.

# %%
exercise("06.length")


# %%
def length(record):
    return NotImplemented


check("06.length", length)

# %%
exercise("06.padding")


# %%
def padding(lengths):
    return NotImplemented


check("06.padding", padding)

# %% [markdown]
# **Predict first:** 512 records of Toybox's stage-2 mix in batches of 16, each picture at LLaVA-1.5's 576
# positions. How much less filling will there be if pictures stand with pictures and texts with texts? (`8 x 4`: the
# same for eight devices, four samples on each.)

# %%
from minillava.records import modality_length

mix = [records.instruction_record("train", index) for index in range(512)]
samples = InstructionDataset(mix, model.tokenizer, "v1", "pad", 96, 64, pixels=False)
sizes = [len(sample["input_ids"]) + 512 * len(sample["image_keys"]) for sample in samples]
lengths = [modality_length(record) for record in mix]
said = [sum(len(turn["value"].split()) for turn in record["conversations"]) for record in mix]
assert lengths == [n if record["image"] else -n for n, record in zip(said, mix, strict=True)]

# %%
from minillava.sampler import grouped_indices


def looked_at(order, devices, each):
    """Share of filling, batches that mix both kinds, and how much more the busiest device has to do."""
    rows = [order[i : i + each] for i in range(0, len(order), each)]
    whole = sum(each * max(sizes[i] for i in row) for row in rows)
    mixed = sum(len({lengths[i] > 0 for i in row}) == 2 for row in rows)
    work = [sum(sizes[i] for i in row) for row in rows]
    busiest = sum(max(work[i : i + devices]) for i in range(0, len(work), devices))
    return 1 - sum(sizes) / whole, mixed / len(rows), devices * busiest / sum(work) - 1


random_order = torch.randperm(512, generator=torch.Generator().manual_seed(0)).tolist()
for devices, each in ((1, 16), (8, 4)):
    for name, order in (("random", random_order), ("grouped", grouped_indices(lengths, each, devices, seed=0))):
        filling, mixed, more = looked_at(order, devices, each)
        print(f"{devices} x {each:<3}{name:<8} filling {filling:>4.0%}  mixed {mixed:>4.0%}  busiest +{more:.0%}")

# %% [markdown]
# Hardly any; inside a kind a device's batch is *not* sorted by length. What the order does is to keep the kinds apart
# (what is left over from both makes the last batches), and to deal the samples of a step out so that all devices have
# alike much to do, since the busiest one is waited for: see its column. LLaVA's README puts the gain at about 25 %,
# with texts longer than ours. A gain is a property of data and machine: measure your own.
#
# ## Train it: stage 1
# For two minutes of training we take small pictures: one thing on each, and four questions about it in one
# conversation. First the bases are joined, and the projector learns to be read, as in lesson 05.

# %%
import random
import sys
import tempfile
from contextlib import redirect_stdout

from minillava import checkpoints
from minillava.training import train_stage


def turns(split, index, stage):
    scene = records.scene(split, index, most=1)
    if stage == "stage1":
        return records.turns([(records.DESCRIBE, language.caption(scene))], image=True)
    kinds = ("color", "shape", "size", "place")
    asked = language.questions(scene, random.Random(index), 4, types=kinds)
    return records.turns(records.short_answers(asked), image=True)


def simple(split, number, stage):
    scenes = [records.scene(split, index, most=1) for index in range(number)]
    return [{"id": f"{split}/{index}", "image": draw(scene), "conversations": turns(split, index, stage)}
            for index, scene in enumerate(scenes)]  # fmt: skip


# %% tags=["nbval-ignore-output"]
tiny = PRESETS["tiny"]
model = checkpoints.from_bases(tiny.vision_tower, tiny.language_model, seed=0)
folder = tempfile.mkdtemp()
with redirect_stdout(sys.stderr):  # the bar is for you; the notebook does not keep it
    first = train_stage(
        model, tiny.stages["stage1"], simple("train", 384, "stage1"), folder,
        batch_size=16, epochs=4, learning_rate=5e-3, trainer={"accelerator": "cpu"},
    )  # fmt: skip

# %%
losses = first.curve["train"][1]
assert first.steps == len(losses) == 96 and losses[-1] < 0.8 * losses[0]
print("stage 1:", first.steps, "steps; what it left:", sorted(p.name for p in first.folder.iterdir()))

# %% [markdown]
# `projector.safetensors` is all that stage 1 has learned, `curve.csv` its loss. (`last.ckpt` is for going on after an
# interruption.)
#
# ## Train it: stage 2
# Before it learns to answer, ask it. **Predict first:** the picture can be read now, and the language model has
# answered thousands of questions about pictures *told in words*. How many will it get right?

# %%
tests = []
for index in range(48):
    scene = records.scene("val", index, most=1)
    conversation = turns("val", index, "stage2")
    for at in range(0, len(conversation) - 1, 2)[:2]:
        asked = conversation[at]["value"].removeprefix("<image>\n").split("\n")[0]
        tests.append((draw(scene), f"{asked}\n{language.SHORT_ANSWER}", conversation[at + 1]["value"]))


def right(model, shift=0):
    """Shares right, each question with the picture `shift` places on."""
    pictures = [tests[(i + shift) % len(tests)][0] for i in range(len(tests))]
    given = model.answer_batch(pictures, [question for _, question, _ in tests], max_new_tokens=6)
    return given, sum(a == wanted for a, (_, _, wanted) in zip(given, tests, strict=True)) / len(tests)


# %% tags=["nbval-ignore-output"]
before, share_before = right(model)
with redirect_stdout(sys.stderr):
    second = train_stage(
        model, tiny.stages["stage2"], simple("train", 320, "stage2"), folder,
        batch_size=16, epochs=2, trainer={"accelerator": "cpu"},
    )  # fmt: skip
after, share_after = right(model)
_, share_shuffled = right(model, shift=len(tests) // 2)
print(f"{len(tests)} questions: {share_before:.0%} right before, {share_after:.0%} after,")
print(f"{share_shuffled:.0%} with another's picture")

# %% alt="The training loss over the steps of stage 1 and of stage 2, thin as it was measured and thick when smoothed. Both lines fall."
from minillava.plots import loss_curves

losses = second.curve["train"][1]
assert sum(losses[-5:]) < 0.8 * sum(losses[:5]) and share_after > share_before
loss_curves({"stage 1": first.curve["train"], "stage 2": second.curve["train"]}, smooth=4)

# %% tags=["nbval-ignore-output"] alt="Eight pictures of one shape each. Under each stand a question with the answer given before stage 2, and the answer after it with a mark for right or wrong."
from minillava.plots import answered_pictures

shown = range(0, 32, 4)
asked = [tests[i][1].split("\n")[0] for i in shown]
assert len(set(asked)) > 1 and any(after[i] != before[i] for i in shown)
answered_pictures(
    [tests[i][0] for i in shown], [f"{q} (before: {before[i][:24]})" for q, i in zip(asked, shown, strict=True)],
    [after[i] for i in shown], [tests[i][2] for i in shown],
)  # fmt: skip

# %% [markdown]
# Two minutes, and it answers some nine in ten. Does it *look*? Compare the last two numbers above the curves: only
# what is right with its own picture and wrong with another's was seen. (Had the two been close, these minutes would
# have taught it which answers fit which question, and little more.) Stage 2's loss begins low since the words of the
# answers are few, and the language model knows them; low is not good.
#
# ## The whole recipe
# The shipped **tiny-LLaVA** has had both stages on all of Toybox: up to five things a picture, relations, counts, and
# pictures of other kinds. Training it takes longer than a lesson, so load it; or say `TRAIN = True`. We ask it the
# short questions about shapes.

# %%
from minillava.evaluation import evaluate
from minillava.evaluation.toybox import held_out
from minillava.reproduce import reproduce

TRAIN = False  # True runs `minillava reproduce` here; data/tiny-llava/README.md says how long that took
finished = minillava.load(reproduce("../runs/tiny").files["model"] if TRAIN else "tiny")
everything = held_out("test")
short = [i for i, row in enumerate(everything) if (row["domain"], row["kind"]) == ("scenes", "questions")]
questions = everything.select(short[::7])  # a seventh, from all pictures of shapes
print(len(questions), "questions of", len(set(questions["type"])), "types")

# %% [markdown]
# **Predict first:** seven types of question. Which will have gained most, and which least?

# %%
joined = checkpoints.from_bases(tiny.vision_tower, tiny.language_model, seed=0)
untrained = evaluate(joined, questions).accuracy["sighted"]
report = evaluate(finished, questions, baselines=("blind", "shuffled"))

# %% alt="For all questions together and for each type, an arrow from the accuracy before both stages to the accuracy after them, with marks for the blind and the shuffled model. Over all questions the arrow ends beyond both marks."
from minillava.course.figures import before_after

table = {
    kind: {"before": untrained[kind], "after": report.accuracy["sighted"][kind]}
    | {name: report.accuracy[name][kind] for name in ("blind", "shuffled")}
    for kind in ("all", *language.TYPES)
}
assert table["all"]["after"] > max(table["all"][name] for name in ("before", "blind", "shuffled"))
before_after(table, "tiny-LLaVA, before and after both stages")

# %% tags=["nbval-ignore-output"]
for kind, row in table.items():
    seen = row["after"] - max(row["blind"], row["shuffled"])
    print(f"{kind:<9}{report.counts[kind]:>4} questions, {100 * seen:+.0f} points by looking")

# %% [markdown]
# The longest arrow gained most. A type of two answers can be had half right by guessing, so by *looking* it has least
# to gain; where it starts below a half, the joined parts gave one answer always, here the rarer. The arrow says what both
# stages taught; the two marks say what can be had without the picture. Where an arrow ends right of its marks, the
# model looks. Where it ends among them, everything that it gained is knowing which answers are common, and a table
# without baselines would have called that learning. With so few questions a row may be off by ten points or more; the
# [card](../data/tiny-llava/README.md) has them all, with intervals.
#
# ## Break it: a rate fifty times too high
# The finished model, twelve more steps, on more of the same data.
#
# **Predict first:** the language model's learning rate is 0.05 for 1e-3. Will an error tell us? Will the loss?

# %% tags=["nbval-ignore-output"]
batch = [InstructionDataset(mix[:16], finished.tokenizer, "v1", "pad", 96, 64)[i] for i in range(16)]
model = finished
healthy, (_, share_healthy) = loss_of(batch).item(), right(model)
with redirect_stdout(sys.stderr):
    broken = train_stage(
        model, tiny.stages["stage2"], mix[16:112], tempfile.mkdtemp(), learning_rate=0.05,
        trainer={"accelerator": "cpu"},
    )  # fmt: skip
ruined = loss_of(batch).item()

# %%
_, share_ruined = right(model)
assert ruined > healthy + 0.5
print("no error in", broken.steps, "steps; the loss is up by half a nat or more:", ruined > healthy + 0.5)
print("it still answers, rightly less than half as often:", share_ruined < share_healthy / 2)

# %% [markdown]
# No error; its curve, `curve.csv`, would have told: it has to go *down* from where the last training ended. What was
# lost is not only what stage 2 taught. The language model itself is damaged, and good data would have to teach it
# anew; the last good checkpoint has it still. So watch the first steps of every run, and keep what it started from.
#
# ## Takeaways
# - Stage 2 trains projector and language model, at 2e-5, batches of 128, one epoch of 665K
#   (arXiv 2310.03744; `scripts/v1_5/finetune.sh`).
# - Its loss is a mean over the tokens of a pass: long answers weigh more than short ones.
# - Questions about one picture share a conversation (arXiv 2310.03744, appendix A.2); records of a kind share
#   a batch, and its devices get alike much to do.
# - An arrow without its baselines says nothing: look for what is right *only* with the right picture.
#
# Next: [07 · Where does it look?](07_where_it_looks.ipynb) Attention, measured.
