# %% [markdown]
# # 07c · What does it rest on? Evidence, taken away
#
# **After this notebook you can**
# - say what a patch knows of the rest of the picture, and which pixels of a photograph it shows,
# - take the evidence for an answer away, as patches or as edges of attention, each beside its control,
# - tell what an answer *needs* from what is *enough* for it, and both from where the model looked.
#
# **You need** lesson 07's idea of a row of attention: no GPU, no network.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. Lit is attention, the question where the model looked."
from minillava.course import card

card("07c")

# %% [markdown]
# Lesson 07b ended with rows and heads that point, and with scores that say how well. All of that tells where a model
# *looks*. Whether it matters is another question, and a map cannot answer it. An experiment can: take something
# away, and ask again.
#
# ## Four words, and one edge less
# A row of attention over four words, from scores 2, 1, 0 and 0. To cut the edge to the first word, its score becomes
# −∞ before the softmax.
#
# **Predict first:** the first word had the largest share. Where does it go: is it lost, does it go to the runner-up,
# or to everybody?

# %%
import torch
from torch.testing import assert_close

scores = torch.tensor([2.0, 1.0, 0.0, 0.0])
without = scores.masked_fill(torch.tensor([True, False, False, False]), -torch.inf)
for row in (scores.softmax(-1), without.softmax(-1)):
    print([round(share, 2) for share in row.tolist()], "sum", round(row.sum().item(), 2))

# %% [markdown]
# To everybody, in proportion: a row hands out all of 1, whatever is left. So nothing is only *removed*: the rest gets
# louder. When an answer then changes, either the missing part was needed or the new mixture confuses. Only a control
# can tell: take away as much *elsewhere*, and see whether that costs anything.
#
# ## Questions whose evidence is known
# Forty of Toybox's held-out questions about one thing among three or more, and **tiny-LLaVA**:

# %%
import minillava
from minillava.evaluation.attention import case
from minillava.evaluation.looking import sights
from minillava.evaluation.toybox import held_out
from minillava.passage import passage

model = minillava.load("tiny").requires_grad_(False)
seen = [sight for sight in sights(held_out("test")) if len(sight.things) >= 3][:40]
asked = [passage(model, s.image, s.asked["question"], answer=s.asked["answer"]) for s in seen]
cases = [case(model, sight) for sight in seen]
first = next(index for index, sight in enumerate(seen) if sight.asked["type"] == "shape")
sight, said, known = seen[first], asked[first], cases[first]
print(sight.asked["question"].split("\n")[0], "→", said.answer)
print("evidence:", int(known.target.sum()), "of", len(said.patches), "patches")

# %% [markdown]
# `passage` puts the true answer into the model's mouth; it is *right* if each row predicts the next token of it.
#
# ## Pitfall 8: a patch is not a place
# The language model looks at 64 rows of *features*. **Predict first:** erase one thing from the picture. How many
# of the features outside of its box change?

# %%
from minillava.images import PatchGeometry, preprocess

box = tuple(round(v) for v in sight.asked["boxes"][0])
erased = said.image.copy()
erased.paste(erased.getpixel((0, 0)), box)
size = model.config.vision_config.image_size
after = model.encode_images(preprocess(erased, size)[None])[0]
change = (after - said.features[0]).norm(dim=-1) / said.features[0].norm(dim=-1)  # [patches]
outside = torch.from_numpy(said.geometry.cells(box)).flatten() == 0
changed = change[outside] > 1e-3
assert bool(changed.all())
print("features outside the box that changed:", int(changed.sum()), "of", len(changed))

# %% tags=["nbval-ignore-output"]
print(f"by how much of their length: half of them by more than {change[outside].median():.0%}")

# %% [markdown]
# All of them. In the vision tower every patch has looked at every other, and "the patch over there" holds news of
# the thing over here. A model that looks at an empty corner may be reading the star; large towers even keep notes
# on the whole picture in empty patches (arXiv 2309.16588). So show the tower's own attention separately
# (`record(model.vision_tower)`), and never multiply the two without saying so.
#
# ## Pitfall 9: the picture was padded
# Photographs are not square. LLaVA pads them to one, then cuts it into patches; lay the grid over the
# *photograph*, and every patch is in the wrong place.

# %%
from minillava.course import check, exercise, hint, solution

exercise("07c.pixels")


# %%
def to_picture(row, column, width, height, grid):
    return NotImplemented


check("07c.pixels", to_picture)

# %%
from PIL import Image

wide = Image.new("RGB", (2 * size, size), "white")
where = PatchGeometry(*wide.size, size, model.config.vision_config.patch_size, "pad")
row, column = where.grid // 2 - 1, 1
step = 2 * size / where.grid
by_hand = (column * step, row * step - size / 2, (column + 1) * step, (row + 1) * step - size / 2)
assert_close(torch.tensor(by_hand), torch.tensor(where.box(row, column)), check_dtype=False)

black = wide.copy()
black.paste("black", tuple(round(v) for v in by_hand))
changed = (preprocess(black, size) - preprocess(wide, size)).abs().sum(0)  # [size, size]
patches = changed.unflatten(0, (where.grid, -1)).unflatten(2, (where.grid, -1)).sum((1, 3))
assert divmod(int(patches.argmax()), where.grid) == (row, column)
print("paint those pixels, and this patch of the model's input changes most:", (row, column))

# %% [markdown]
# Proven by paint: the pixels that we computed are those that the patch shows. Every map of this course goes
# through `PatchGeometry`, the inverse of the preprocessing itself.
#
# ## Take patches away
# Back to the forty questions. A patch that is gone becomes the *mean* patch, one of which nothing is known. (Of 0, or
# noise, a model may make anything: no picture has such a feature.)

# %%
exercise("07c.blank")


# %%
def blank(features, gone, mean):
    return NotImplemented


check("07c.blank", blank)

# %% [markdown]
# **Predict first:** without the thing's patches, how many of forty are still right? Without as many others? And if
# nearly everything goes, *all* patches but the thing's?

# %%
import numpy as np

from minillava.ablation import blanked, mean_feature

mean = mean_feature(model, [sight.image for sight in seen])
by_hand = torch.where(torch.from_numpy(known.target).flatten()[:, None], mean, said.features[0])
assert_close(by_hand, blanked(said.features, torch.from_numpy(known.target.reshape(1, -1)), mean)[0])


def spoken(said, gone):
    """What the model says without some patches: for each row of the answer, the token it predicts."""
    features = blanked(said.features, torch.from_numpy(gone.reshape(1, -1)), mean)
    logits = model.language_model(inputs_embeds=said.embeds(features)).logits[0, said.rows]
    return logits.argmax(-1).tolist()


# %%
rng = np.random.default_rng(0)


def elsewhere(target):
    """As many patches, none of them the target's."""
    gone = np.zeros_like(target)
    gone.flat[rng.permutation(np.flatnonzero(~target))[: target.sum()]] = True
    return gone


plans = {"nothing": np.zeros_like, "the thing": np.copy, "as many others": elsewhere}
plans["everything else"] = np.logical_not
right = dict.fromkeys(plans, 0)
for one, where in zip(asked, cases, strict=True):
    for name, plan in plans.items():
        right[name] += spoken(one, plan(where.target)) == one.answer_ids

# %% tags=["nbval-ignore-output"]
for name, number in right.items():
    print(f"without {name:<18} {number} of {len(seen)} right")

# %% tags=["nbval-ignore-output"]
left = [spoken(one, where.target) == one.answer_ids for one, where in zip(asked, cases, strict=True)]
for kind in sorted({sight.asked["type"] for sight in seen}):
    these = [ok for ok, sight in zip(left, seen, strict=True) if sight.asked["type"] == kind]
    answers = {row["answer"] for row in held_out("test") if row["type"] == kind}
    print(f"{kind:<6} {sum(these)} of {len(these)} left without the thing; a guess among {len(answers)}:",
          round(len(these) / len(answers), 1))  # fmt: skip

# %%
assert right["the thing"] < right["as many others"] - 10
print("needed:", right["the thing"] < right["nothing"] - 10)
print("enough:", right["everything else"] > right["nothing"] - 4)

# %% [markdown]
# Two findings, and neither follows from the other. The thing's patches are **needed**: without them little more is
# left than guessing gets. And they are **enough**: a handful of patches carries the answer alone. Pitfall 8 warned of
# what *may* be: news of the thing does reach every patch, and some shapes may come that way, little else. (Enough are
# these *features*, not their pixels: the tower that made them saw the whole picture.) None of it could be read off a
# map.

# %% alt="One picture four times: whole, without the patches of the thing asked about, without as many others, and without everything else. Above each is what the model answers; patches that are gone are gray."
from minillava.course.figures import blanked_row

gone = {name: plan(known.target) for name, plan in plans.items()}
titles = {name: model.tokenizer.decode(spoken(said, where)).strip() for name, where in gone.items()}
assert titles["nothing"] == said.answer
blanked_row(said.image, {f"without {name}:\n{titles[name]}": where for name, where in gone.items()})

# %% [markdown]
# ## Cut edges
# Blanking takes the evidence from everybody. A finer knife leaves all patches where they are, and cuts *edges*: the
# words may look anywhere but at the thing. Then one can ask which word's look it was that counted.

# %%
exercise("07c.cut")


# %%
def cut(row, columns):
    return NotImplemented


check("07c.cut", cut)

# %% [markdown]
# By hand, in the first layer, whose inputs no cut has touched yet: the recorded row, the thing's columns emptied, the
# rest shared out anew. `knock_out` does it inside the model.

# %%
from minillava.ablation import knock_out


def edges(said, known):
    """Positions of a question: the thing's patches, and the token right after the words that name it."""
    columns = torch.tensor(said.patches)[torch.from_numpy(known.target).flatten()]
    return columns, said.find(known.reference, said.patches[-1])[-1] + 1


columns, after = edges(said, known)
kept = said.attention([after], layers=[0])[0, :, 0].index_fill(-1, columns, 0)  # [heads, T]
by_hand = kept / kept.sum(-1, keepdim=True)
places = torch.arange(len(said.ids))[None]
with knock_out(model, places == after, torch.isin(places, columns), layers=[0]):
    assert_close(said.attention([after], layers=[0])[0, :, 0], by_hand, atol=1e-5, rtol=1e-4)
print("by hand and by knock_out: the same rows of", len(by_hand), "heads")

# %% [markdown]
# Now as the package asks: patches, and edges from four kinds of rows, in all layers, in the early and in the late
# ones, each beside its control. Rows: the tokens that spell the thing's name ("yellow star"); the one token *after*
# them, the first that has read all of it; the last of the prompt, which predicts the answer; and all of the question,
# these three among it.
#
# **Predict first:** which of the three costs most? Will any of them alone cost as much as all of the question?

# %%
from minillava.evaluation.damage import ablate, by_layer

depth = model.config.text_config.num_hidden_layers
halves = [half.tolist() for half in np.array_split(np.arange(depth), 2)]
costs = ablate(model, cases, bands=halves)
patches = {cost.removed: cost.damage for cost in costs if cost.rows == "everything"}
assert patches["target"] > patches["as many other patches"] + 0.1

# %% alt="Right answers lost when edges of attention to the thing are cut, in all layers, in the early and in the late ones. Four colors stand for cuts from the words that name the thing, from the token after them, from all of the question and from the answer, with intervals; hollow marks are cuts to as many other patches."
from minillava.attention_plots import damage_by_layer

bands, lost, control = by_layer(costs)
assert len(bands) == 3 and len(lost) == len(control) == 4
damage_by_layer(bands, lost, control, "cutting the edges to the thing")

# %% tags=["nbval-ignore-output"]
for removed, damage in patches.items():
    print(f"patches of {removed:<22} cost {len(seen) * damage:.0f} of {len(seen)} answers")
everywhere = {cost.rows: cost.damage for cost in costs if (cost.removed, cost.layers) == ("target", "all")}
for rows, damage in everywhere.items():
    print(f"edges from {rows:<22} cost {len(seen) * damage:.0f}")

# %%
single = {rows: damage for rows, damage in everywhere.items() if rows != "all of the question"}
print("the rows that count:", max(single, key=single.get))

# %% [markdown]
# One position, and early: a cut in the first three layers costs all that it costs, one in the last two nothing. The words
# that name the thing need not look at it, nor need the row that answers, which most tools draw: the token right after
# the name, mostly a question mark or a colon, has read which thing is meant, looks at it, and keeps what it found for
# whoever asks later. That is lesson 07b's table once more (*word: the one after*), but no longer a matter of taste:
# this row's map, in the early layers, *is* the map. (Where a bar spans 0, forty questions cannot tell; `python
# benchmarks/attention.py` asks hundreds under three seeds.)
#
# ## Break it: cut every other row
# So strong a claim should be attacked. Leave that one row alone and cut *all other rows* after the picture from the
# thing, the answer's among them, in every layer.
#
# **Predict first:** how many of the forty are still right? And if that one row is cut instead?

# %%
survive = {"that row": 0, "every other row": 0}
for one, where in zip(asked, cases, strict=True):
    columns, after = edges(one, where)
    places = torch.arange(len(one.ids))[None]
    for name, rows in (("that row", places == after), ("every other row", places != after)):
        with knock_out(model, rows & (places > one.patches[-1]), torch.isin(places, columns)):
            said_now = one.run(one.rows)[1].argmax(-1).tolist()  # logits of the answer's rows
        survive[name] += said_now == one.answer_ids

# %% tags=["nbval-ignore-output"]
for name, number in survive.items():
    print(f"cut from {name:<16} {number} of {len(seen)} right")

# %%
assert survive["every other row"] > survive["that row"] + 10
print("one row is needed:", survive["that row"] < len(seen) - 10)
print("one row is enough:", survive["every other row"] > len(seen) - 4)

# %% [markdown]
# It holds. Do not carry it to other models: a deep one can look again and again, and has many rows that would do; then
# single cuts cost nothing, all of them together much, and no row is "the" map. What carries over is the experiment.
#
# ## Takeaways
# - A patch has read all others (arXiv 2309.16588), so what a patch *holds* says nothing about what is *used*.
# - Maps go through the inverse of the preprocessing, or they lie about padded photographs.
# - Looking is not using. Cut edges (arXiv 2304.14767) and blank patches (arXiv 2410.07149), beside controls.
# - Needed and enough are two experiments: cut it, and cut all but it. What survives a cut may have had it twice.
#
# Next: [10 · Scale](10_scale.ipynb), the same code on eight A100s.
