# %% [markdown]
# # 01 · Toybox: the data LLaVA needs
#
# **After this notebook you can**
# - read a LLaVA record, and write one for either stage from what is known about a picture,
# - say how 158,000 instructions about pictures came from a model that had seen none of them,
# - find out, before any training, what can be guessed without looking and what cannot be trained on.
#
# **You need** nothing but this repository: no GPU, no network.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. Lit is Toybox."
from minillava.course import card

card("01")

# %% [markdown]
# LLaVA-1.5 learns from 558,000 captioned pictures and then from 665,000 conversations, most of them about a
# picture. This course brings a world of its own: **Toybox** draws colored shapes, describes them, asks about
# them, and knows every answer. The *format* is LLaVA's to the letter; what reads these records reads the real
# ones.
#
# ## A picture is symbols first
# Before there is a pixel, a picture is a list of things. Here is picture 41 of the training split.
#
# **Predict first:** if we ask for it again after asking for a thousand other pictures, or on another machine,
# what will have changed?

# %%
from minillava.toybox import records

scene = records.scene("train", 41)
for thing in scene.objects:
    print(f"{thing.size:<6}{thing.color:<8}{thing.shape:<9}at the {thing.place:<13}pixels {thing.box}")

others = [records.scene("train", index) for index in range(1000)]
print("the same picture again:", records.scene("train", 41) == scene)

# %% [markdown]
# Nothing. A picture's number and its split *are* its seed, so anyone can check a number of this course. What this
# does not show is variety: a generator has only the variety that somebody wrote into it.
#
# ## Boxes you can trust
# `pixels (x1, y1, x2, y2)` above came from the symbols. Do the pixels agree? Paint the picture with and
# without one thing: where the two differ, there it is.
#
# **Predict first:** how tight is the box that we find this way: exact, or off by a pixel of blur?

# %%
from dataclasses import replace

import numpy as np
import torch
from torch.testing import assert_close

from minillava.toybox.draw import draw


def box_from_pixels(scene, number):
    without = replace(scene, objects=scene.objects[:number] + scene.objects[number + 1 :])
    differs = (np.asarray(draw(scene)) != np.asarray(draw(without))).any(axis=-1)  # [96, 96]
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


by_hand = [box_from_pixels(scene, number) for number in range(len(scene.objects))]
assert_close(torch.tensor(by_hand), torch.tensor([thing.box for thing in scene.objects]))
print("boxes found in the pixels are the symbols' boxes:", len(by_hand), "of", len(scene.objects))

# %% [markdown]
# Exact: a box touches its thing on four sides, and `x2`, `y2` are the first pixel beyond. (People drew COCO's
# boxes by hand.) In lesson 07b they will say whether a heat map is on the right thing, so they must not be wrong.
#
# ## The trick that made LLaVA: describe, don't show
# Who writes 158,000 instructions about pictures? LLaVA's answer: write the *picture* down. A text-only GPT-4 got a
# COCO picture's five **captions**, for descriptions and reasoning its **boxes** as well, and was asked to write as
# somebody who sees it (arXiv 2304.08485; its prompts: playground/data/prompts). Toybox keeps the same two things
# for every picture:

# %% alt="A large pink cross, a small yellow circle and a large purple square, each in its box; beside them, in words, five captions and the name and corners of each thing."
from minillava.course.figures import beside
from minillava.toybox import language

captions = language.captions(scene)
instances = [f"{thing['category']}: {thing['bbox']}" for thing in scene.instances()]
assert len(captions) == 5 and len(instances) == len(scene.objects)
beside(draw(scene), "\n".join([*captions, "", *instances]), [thing.box for thing in scene.objects])

# %% [markdown]
# Left, what our model will see; right, what GPT-4 would have read. From the text alone you could ask "Which is
# further left?" and be sure of the answer: so 58,000 conversations, 23,000 descriptions and 77,000 chains of reasoning
# came about. What the right side does not hold, the tilt of a shape for one, no instruction asks for.
#
# The numbers in brackets are boxes between 0 and 1. Make them yourself:

# %%
from minillava.course import check, exercise, hint, solution

exercise("01.box")


# %%
def normalized(box, edge):
    return NotImplemented


check("01.box", normalized)

# %% [markdown]
# ## Stage 1: a picture and its caption
# A **record** is a dict: `id`, `image`, and `conversations`, in which `human` and `gpt` take turns. Stage 1 has one
# question and one answer, the caption. `<image>` marks where the picture goes. In LLaVA's files `image` is a
# path; here it is a dict with the bytes of a PNG, so that one file holds all.
#
# **Predict first:** what will the two turns say?

# %%
import json

from minillava.toybox.scenes import SCENES

record = records.record(SCENES, "detail", "train", 41)
print(json.dumps(record | {"image": "(bytes of a PNG)"}, indent=1))

# %%
from minillava.images import open_image

conversation = [
    {"from": "human", "value": "<image>\nDescribe the picture in detail."},
    {"from": "gpt", "value": captions[0]},
]
assert record["conversations"] == conversation
pixels = torch.from_numpy(np.array(open_image(record["image"]["bytes"])))
assert_close(pixels, torch.from_numpy(np.array(draw(scene))))
print("a record by hand is the package's record, pixels included")

# %% [markdown]
# The caption names everything, in reading order; captions from the web are less patient. Write the next record
# from nothing:

# %%
exercise("01.record")


# %%
def caption_record(name, image, caption):
    return NotImplemented


check("01.record", caption_record)

# %% [markdown]
# ## Stage 2: instructions
# **Predict first:** a stage-2 record asks several questions about one picture. How often does `<image>` stand
# in it? And LLaVA-1.5's request for brevity, "Answer the question using a single word or phrase."?

# %% alt="The same picture of a cross, a circle and a square, and beside it a conversation about it: many short questions by the human, each with an answer of a word or two."
instruct = records.record(SCENES, "questions", "train", 41)
spoken = "\n".join(f"{turn['from']:>5}: {turn['value']}" for turn in instruct["conversations"])
print("<image>:", spoken.count("<image>"), "  format prompt:", spoken.count(language.SHORT_ANSWER))
beside(open_image(instruct["image"]["bytes"]), spoken)

# %% [markdown]
# Once each: the first turn brings the picture and sets the format for all. LLaVA-1.5 merges the questions about a
# picture into one conversation, so that the picture, the expensive part, is paid once (arXiv 2310.03744,
# appendix A.2).
#
# **Predict first:** LLaVA-1.5 also trains on conversations without any picture. Why feed text to a model that is
# to learn to see?

# %%
from collections import Counter

from minillava.course.figures import shares
from minillava.toybox import mix

part = {
    "questions": "short answers", "pope": "short answers",
    "region": "regions", "choice": "letters",
    "description": "detail", "dialogue": "detail", "reasoning": "detail", "text": "text only",
}  # fmt: skip
drawn = [mix.share(mix.STAGE_2, "train", index) for index in range(1000)]
ours = Counter(part[row.kind] for row in drawn)
assert Counter(drawn) == {row: row.records for row in mix.STAGE_2}
print(ours["text only"], "of 1000 records of stage 2 have no picture")

# %% alt="Two bars, one for Toybox's mix and one for LLaVA-1.5's, each divided into short answers, detail, regions, letters and text only. In both, short answers are the largest part."
llava = {
    "short answers": 82783 + 72140 + 8998 + 80000,  # VQAv2, GQA, OKVQA, OCR-VQA
    "detail": 157712 + 21953,  # LLaVA's own conversations, descriptions, reasoning; TextCaps
    "regions": 48447 + 86417,  # RefCOCO, Visual Genome
    "letters": 66160,  # A-OKVQA
    "text only": 40688,  # ShareGPT
}
assert sum(llava.values()) == 665298
shares({"Toybox, of 1000": {name: ours[name] for name in llava}, "LLaVA-1.5, of 665K": llava})

# %% [markdown]
# (The lower row is the author's recount, haotian-liu/LLaVA issue 702.) Both give about a sixteenth to text
# alone, so that the model does not forget how to talk about anything else. It counts records; ours with SVG or
# lectures are among the short answers.
#
# ## What can be guessed without looking?
# Every answer in a data set has a frequency, and a model that never looks can learn it. So the first number
# to know about any data set is what the laziest guesser gets.

# %%
exercise("01.majority")


# %%
def majority(answers):
    return NotImplemented


check("01.majority", majority)

# %% [markdown]
# ## Break it: ask carelessly
# Toybox decides on *yes* or *no* first and then looks for a thing to ask about. Suppose we had been lazy: draw
# a color and a shape at random, and ask "Is there a ...?".
#
# **Predict first:** eight colors, six shapes, one to five things a picture. How often is *no* right?

# %% alt="Two bars of the answers to questions of the kind “Is there a ...?”. Asked carelessly, nearly all are no; as Toybox asks, yes and no are about even."
import random

from minillava.toybox.scene import COLORS, SHAPES

rng = random.Random(0)
careless, careful = Counter(), Counter()
for index, shown in enumerate(others):
    there = {(thing.color, thing.shape) for thing in shown.objects}
    careless["yes" if (rng.choice(list(COLORS)), rng.choice(SHAPES)) in there else "no"] += 1
    careful.update(q.answer for q in records.questions("train", index) if q.type == "exist")

no, yes = careless["no"] / careless.total(), careful["yes"] / careful.total()
assert no > 0.9 and abs(yes - 0.5) < 0.03
shares({"careless": careless, "Toybox": dict(sorted(careful.items()))}, "Is there a ...?")

# %% [markdown]
# Saying *no* with closed eyes scores above 90 %, which would look splendid in a table; Toybox's guesser gets half.
# But balance is not enough: a thing of which neither color nor shape is there is easy to deny. POPE (arXiv
# 2305.10355), on which LLaVA-1.5 reports 85.9, therefore draws some questions *adversarially*. In Toybox's world:

# %%
exercise("01.adversarial")


# %%
def tempting(things):
    return NotImplemented


check("01.adversarial", tempting)

# %% [markdown]
# ## Held out, four ways
# A hash of *what a picture shows* decides what it is for: eight tenths may be trained on, one tenth is `val`, to
# look at while working, and one tenth `test`, for finished models. Both are of the training's kind. Three more splits
# each change one thing:
# `compositional` shows pairs of color and shape that no training picture has, `more` one object more, and
# `paraphrase` asks in words that were never trained on.
#
# **Predict first:** of 300 pictures from each split, how many will also stand in the training split?

# %%
from minillava.toybox.scene import WITHHELD

shown = {split: [records.scene(split, i) for i in range(300)] for split in records.SPLITS}
keys = {split: {scene.key() for scene in scenes} for split, scenes in shown.items()}
pairs = {s: {(o.color, o.shape) for scene in shown[s] for o in scene.objects} for s in shown}

print("pictures in train and another split:", sum(len(keys["train"] & keys[s]) for s in keys if s != "train"))
print("withheld pairs in train:", len(pairs["train"] & WITHHELD), "of", len(WITHHELD))
print("withheld pairs in compositional:", len(pairs["compositional"] & WITHHELD), "of", len(WITHHELD))

# %% alt="Nine pictures in three rows of three, from the splits train, compositional and more. The rows look alike; the last has one object more in a picture."
from minillava.plots import contact_sheet

rows = ("train", "compositional", "more")
sheet = [draw(scene) for split in rows for scene in shown[split][:3]]
assert len({np.asarray(picture).tobytes() for picture in sheet}) == 9
contact_sheet(sheet, [split for split in rows for _ in range(3)], columns=3)

# %% [markdown]
# None of these, and by the hash none of any number. A right answer about the middle row cannot be a memory of that
# pair: the model has to put color and shape together. This does not test a new world: one hand drew all three rows.
#
# ## Audit before you train
# Real files have holes, which LLaVA's users met hours into a run. Here are five records.
#
# **Predict first:** how many of them can be trained on?

# %%
from minillava.data import audit

picture = draw(scene)


def made(name, question, answer, role="gpt", image=picture):
    turns = [{"from": "human", "value": question}, {"from": role, "value": answer}]
    return {"id": name, "image": image, "conversations": turns}


report = audit([
    made("fine", "<image>\nWhat is it?", "A star."),
    made("forgot the placeholder", "What is it?", "A star."),
    made("picture not downloaded", "<image>\nWhat is it?", "A star.", image="coco/000000000009.jpg"),
    made("another library's roles", "<image>\nWhat is it?", "A star.", role="assistant"),
    made("nothing to learn", "<image>\nWhat is it?", ""),
])  # fmt: skip
print(report)

# %% [markdown]
# One. The other four are named, each with its reason, before a single step. `minillava train` audits by itself; for
# your own data call `audit(file, image_root)`. It finds what is *malformed*, not what is *wrong*: "blue" said of
# a red star passes.
#
# ## Takeaways
# - A LLaVA record is a picture, and turns from human and gpt; stage 1 has one caption, stage 2 a conversation
#   (arXiv 2304.08485; the short answers' format prompt: arXiv 2310.03744, table 7).
# - The instructions were written by a model that read captions and boxes and saw nothing
#   (arXiv 2304.08485).
# - Know what the laziest guesser gets before you believe an accuracy; adversarial questions are POPE's
#   (arXiv 2305.10355).
# - Audit first. A data set is wrong in ways that a loss curve does not show.
#
# Next: [02 · What CLIP sees](02_what_clip_sees.ipynb), the first thing that happens to these pixels.
