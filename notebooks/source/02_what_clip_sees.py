# %% [markdown]
# # 02 · What CLIP sees: patches, layers, why −2
#
# **After this notebook you can**
# - turn a picture into CLIP's patch features by hand, down to the last digit,
# - say what a patch knows about its thing at each layer, with a number,
# - explain why LLaVA reads the layer before the last, and prove your explanation with one gradient.
#
# **You need** nothing but this repository: no GPU, no network.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. Lit is the vision tower."
from minillava.course import card

card("02")

# %% [markdown]
# LLaVA does not learn to see. It takes a finished vision encoder, CLIP, freezes it, and reads its thoughts:
# one row of numbers for each patch of the picture. Today we follow a picture into CLIP and stop where LLaVA
# stops.
#
# ## A picture you can hold in your hand
# Four by four pixels, one channel, cut into patches of two by two. A patch becomes a row of numbers, and one
# matrix turns each row into as many numbers as we like, here three.
#
# **Predict first:** how many rows, and how many numbers in each before and after the matrix?

# %%
import torch
import torch.nn.functional as F
from torch.testing import assert_close

pixels = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 2], [0, 0, 2, 0]])
rows = torch.stack([pixels[r : r + 2, c : c + 2].flatten() for r in (0, 2) for c in (0, 2)])
matrix = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, -1], [0, 1, 1, 0]])  # sum, slope, rising diagonal

print(rows.tolist())
print((rows @ matrix.T).tolist())
by_convolution = F.conv2d(pixels[None, None], matrix.reshape(3, 1, 2, 2), stride=2)
assert_close(rows @ matrix.T, by_convolution[0].flatten(1).T)

# %% [markdown]
# Four rows of four become four rows of three: the bright corner, two empty patches, and a diagonal stroke that
# the third column has found. Code calls this "a convolution with stride = patch"; it is the same thing, as the
# last line checks. Nothing looked beyond its own patch so far.

# %%
from minillava.course import check, exercise, hint, solution

exercise("02.count")


# %%
def image_tokens(size, patch):
    return NotImplemented


check("02.count", image_tokens)

# %% [markdown]
# ## The real thing, by hand
# Our CLIP, **tiny-CLIP**, takes 96 pixels in patches of 12: a grid of 8 × 8. This is how it gets the picture,
# and no finer: whatever it knows about the triangle, it must put together from pieces.

# %%
from pathlib import Path

from transformers import CLIPModel

from minillava.bases import pretrained
from minillava.config import PRESETS
from minillava.course.figures import cut_apart
from minillava.images import preprocess
from minillava.plots import contact_sheet
from minillava.toybox import language, records
from minillava.toybox.draw import draw

clip = pretrained(CLIPModel, Path(PRESETS["tiny"].vision_tower), torch.float32).requires_grad_(False)
tower = clip.vision_model
scene = records.scene("val", 41)
picture = draw(scene)
pixels = preprocess(picture, 96, "square")[None]  # [1, 3, 96, 96]

# %% alt="Left a picture of a triangle, a circle and two crosses; right the same picture cut into 8 by 8 patches with white gaps between them, so that every shape lies in pieces."
pieces = cut_apart(picture, 12)
assert pieces.shape == (96 + 7 * 3, 96 + 7 * 3, 3)
contact_sheet([picture, pieces], ["the picture", "what CLIP is given: 64 patches"], columns=2)

# %% [markdown]
# **Predict first:** three channels, 12 × 12 pixels: how many numbers is a patch before the matrix? The tower is
# 128 wide: does the matrix blow a patch up or boil it down?

# %%
exercise("02.cut")


# %%
def cut(pixels, patch):
    return NotImplemented


check("02.cut", cut)

# %%
embeddings = tower.embeddings
matrix = embeddings.patch_embedding.weight.flatten(1)  # [128, 3 * 12 * 12]
raw = F.unfold(pixels, kernel_size=12, stride=12)[0].T  # [64, 3 * 12 * 12]
patches = raw @ matrix.T  # [64, 128]

everything = torch.cat([embeddings.class_embedding[None], patches])  # CLS in front
everything = everything + embeddings.position_embedding.weight  # which row stands where
assert_close(everything[None], embeddings(pixels), atol=1e-4, rtol=1e-4)
print("a patch:", raw.shape[1], "numbers in,", patches.shape[1], "out; rows with CLS:", len(everything))

# %% [markdown]
# It boils 432 down to 128, adds one row that is no patch, **CLS**, and gives each row a vector for its place:
# from here on a patch knows where it was. Then come the layers, in which rows look at each other. Collect what
# stands between them:

# %%
hidden = [tower.pre_layrnorm(everything)[None]]  # (transformers spells it so)
for layer in tower.encoder.layers:
    hidden.append(layer(hidden[-1], attention_mask=None))

from minillava.vision import encode_patches

assert_close(hidden[-2][:, 1:], encode_patches(tower, pixels), atol=1e-4, rtol=1e-4)
print(len(tower.encoder.layers), "layers,", len(hidden), "hidden states")
print("LLaVA takes", list(hidden[-2][:, 1:].shape))

# %% [markdown]
# `encode_patches` is LLaVA's whole use of CLIP: hidden state −2, without CLS. The last layer comes after that state
# and cannot change it, so it does not run. In LLaVA-1.5 the tower is CLIP ViT-L/14 at 336 pixels:

# %%
exercise("02.layer")

# %%
layers = NotImplemented

check("02.layer", layers)

# %% [markdown]
# ## What does a patch know?
# Ask the patches. For each thing in 120 pictures, average the features under its box and see whether a *linear*
# map, fitted on two thirds of the things, reads off the color, shape, size and place of the others. Linear,
# because then it can only find what is lying there. Layer 0 is before any layer: pixels times a matrix.
#
# **Predict first:** which of the four can be read at layer 0? Which needs the patches to talk to each other?

# %% alt="Lines for color, shape, size and place: how often a linear map reads each off the patches after each layer. Shape climbs far above where it starts; the layer called −2 is marked."
from minillava.course.figures import accuracy_by_layer
from minillava.pretrain.probe import linear_probes

four = ("color", "shape", "size", "place")
probed = linear_probes(clip, pictures=120)  # layer -> what is read -> share right
known = {layer: {name: right[name] for name in four} for layer, right in probed.items()}
last = len(known) - 1
assert known[last - 1]["shape"] > known[0]["shape"] + 0.3
assert known[last - 1]["color"] > 0.9 and known[last - 1]["size"] > 0.85
accuracy_by_layer(known, marked=last - 1)

# %%
added = {name: known[last - 1][name] - known[0][name] for name in known[0]}
print("the layers add most to:", max(added, key=added.get))
print("they add least to:     ", min(added, key=added.get))
print("lost on the way to -2: ", [name for name, gain in added.items() if gain < -0.05])

# %% [markdown]
# (A guess gets one of 2 sizes, 6 shapes, 8 colors, 9 places.) Where a thing is can be read from the start, since each
# patch was given its place, and much of its color is in
# the pixels. *Shape* is not: a patch in the middle of a star is one flat color, exactly like one in the middle
# of a heart. It takes layers in which patches look at each other before a patch can say "I am part of a star".
# That is what LLaVA gets from CLIP, and what no projector could compute, since it sees one patch at a time. (A
# probe shows what *can* be read, not that a language model will learn to read it.)
#
# ## Which patches are alike?
# Take a patch of one thing and look in forty other pictures for the patches whose features point the same way.

# %%
exercise("02.nearest")


# %%
def nearest(query, others):
    return NotImplemented


check("02.nearest", nearest)

# %%
from minillava.images import PatchGeometry

geometry = PatchGeometry(96, 96, 96, 12, "square")
others = [records.scene("val", index) for index in range(100, 140)]
batch = torch.stack([preprocess(draw(other), 96, "square") for other in others])
features = {layer: encode_patches(tower, batch, select_layer=layer) for layer in (0, -2)}  # [40, 64, 128]

middles = []  # (picture, patch, thing): the patch that shows most of each thing
for number, other in enumerate(others):
    for thing in other.objects:
        middles.append((number, int(geometry.cells(thing.box).argmax()), thing))


def most_alike(layer, query, count=5):
    """The things whose middle patches are most like that of thing `query`, from other pictures."""
    rows = torch.stack([features[layer][number, patch] for number, patch, _ in middles])
    cosines = F.cosine_similarity(rows[query][None], rows)
    ranked = cosines.argsort(descending=True).tolist()
    return [middles[i] for i in ranked if middles[i][0] != middles[query][0]][:count]


# %% [markdown]
# **Predict first:** at layer 0, and at layer −2: will the neighbors share the color, or the shape?

# %% alt="Two rows of cutouts, each beginning with the same large star and then showing the five things whose patches are most like its own, at layer 0 above and at layer −2 below. Compare colors and shapes between the rows."
from PIL import ImageOps

query = next(i for i, (_, _, thing) in enumerate(middles) if thing.shape == "star" and thing.size == "large")


def crop(number, patch, side=20):
    x, y = patch % 8 * 12 + 6, patch // 8 * 12 + 6
    return ImageOps.expand(draw(others[number]), side, "white").crop((x, y, x + 2 * side, y + 2 * side))


shown = [middles[query], *most_alike(0, query), middles[query], *most_alike(-2, query)]
notes = ["wanted", *["layer 0"] * 5, "wanted", *["layer −2"] * 5]
assert len(shown) == len(notes) == 12
contact_sheet([crop(number, patch) for number, patch, _ in shown], notes, columns=6)

# %%
def agreement(layer, attribute):
    """How often the nearest thing in another picture shares the attribute, over all things."""
    pairs = [(middles[i][2], most_alike(layer, i, count=1)[0][2]) for i in range(len(middles))]
    return sum(getattr(a, attribute) == getattr(b, attribute) for a, b in pairs) / len(pairs)


shape = {layer: agreement(layer, "shape") for layer in (0, -2)}
assert shape[-2] > shape[0]
print("the nearest patch is of the same shape more often at -2 than at 0:", shape[-2] > shape[0])
print("... and more often than not:", shape[-2] > 0.5)

# %% [markdown]
# At layer 0 alike means *alike in pixels*: the same color, any shape. At −2 it is closer to *the same kind of
# thing*. One example is an anecdote; the two lines above count all things of forty pictures.
#
# ## Where is the triangle? A tempting map
# CLIP was trained to say whether a text fits a picture: CLS, after the last layer, is projected to where texts
# live. It is tempting to send every *patch* through the same projection, and to call what comes out a map of
# "where the text is".
#
# **Predict first:** CLIP compares texts with CLS alone, never with a patch. Will the tempting map point at the
# thing all the same?

# %%
from transformers import AutoTokenizer

from minillava.pretrain.clip_model import embed_pictures, embed_texts

tokenizer = AutoTokenizer.from_pretrained(PRESETS["tiny"].vision_tower)


def tempting_map(pixels, text):
    """Each patch of the last layer, sent where CLIP trains only CLS to go: [8, 8]."""
    states = encode_patches(tower, pixels, select_layer=-1)[0]
    seen = F.normalize(clip.visual_projection(tower.post_layernorm(states)), dim=-1)
    similar = seen @ embed_texts(clip, tokenizer, [text])[0]
    return (similar - similar.min()).reshape(8, 8)


# %% [markdown]
# A slower way asks CLIP what it *was* trained for: hide a window of 3 × 3 patches, and measure by how much the
# text fits the picture less. What matters to the text is what it misses.

# %%
grid = torch.arange(64).reshape(8, 8)
windows = [grid[row : row + 3, column : column + 3].flatten() for row in range(6) for column in range(6)]
kept = torch.stack([torch.tensor(sorted(set(range(64)) - set(window.tolist()))) for window in windows])


def hiding_map(pixels, text):
    """How much less the text fits when a patch's neighborhood is hidden, mean over windows: [8, 8]."""
    words = embed_texts(clip, tokenizer, [text])[0]
    whole = embed_pictures(clip, pixels) @ words
    drops = whole - embed_pictures(clip, pixels.expand(len(windows), -1, -1, -1), kept) @ words
    heat, times = torch.zeros(64), torch.zeros(64)
    for window, drop in zip(windows, drops, strict=True):
        heat[window] += drop
        times[window] += 1
    return (heat / times).reshape(8, 8)


# %% alt="The picture and two heat maps over its patches for a text that names one thing in it, the tempting map and the hiding map. A box shows where the thing is, to compare with where each map is bright."
from minillava.course.figures import maps_row

thing = scene.objects[0]
text = language.article(f"{thing.color} {thing.shape}")
maps = {"tempting": tempting_map(pixels, text), "hiding": hiding_map(pixels, text)}
assert all(heat.shape == (8, 8) and heat.max() > heat.min() for heat in maps.values())
titles = {f"“{text}”, {name}": heat.numpy() for name, heat in maps.items()}
maps_row(picture, titles, {title: [thing.box] for title in titles})

# %% [markdown]
# Two maps, one claim, and a box that knows. Do not judge by one picture: count in how many of a dozen the
# brightest patch touches the right thing.

# %%
hits = {"tempting": 0, "hiding": 0}
area = 0.0
for number in range(12):
    asked = others[number].objects[0]
    text = language.article(f"{asked.color} {asked.shape}")
    inside = torch.from_numpy(geometry.cells(asked.box)).flatten() > 0
    area += inside.double().mean().item() / 12
    for name, heat in (("tempting", tempting_map), ("hiding", hiding_map)):
        hits[name] += bool(inside[heat(batch[number : number + 1], text).argmax()])

# %% tags=["nbval-ignore-output"]
print(hits, "of 12; a dart would hit", round(12 * area, 1))

# %%
assert min(hits.values()) > 2 * 12 * area
print("each finds it more than twice as often as a dart:", min(hits.values()) > 2 * 12 * area)

# %% [markdown]
# The tempting map points too, and tiny-CLIP was taught more than CLIP is: texts about one thing were compared with
# the patches under its box, at layer −2, by this very projection (`minillava/pretrain/clip_facts.py`). That is likely
# why; only a tower made without it could prove it. CLIP itself never compared a patch with a text, and its tempting
# map lights up the background as readily as the thing (arXiv 2304.05653). Nobody sees the difference in one map.
# Hiding asks only for what every CLIP was trained to do; still, count.
#
# ## Why −2
# **Predict first:** CLIP's loss compares a picture with texts. Follow its gradient backward through the layers:
# at which hidden states do the *patches* get any?

# %%
state = hidden[0].clone().requires_grad_()
states = [state]
for layer in tower.encoder.layers:
    states.append(layer(states[-1], attention_mask=None))
    states[-1].retain_grad()
seen = F.normalize(clip.visual_projection(tower.post_layernorm(states[-1][:, 0])), dim=-1)
(seen @ embed_texts(clip, tokenizer, ["a star"])[0]).sum().backward()

for index, state in enumerate(states):
    cls, rest = state.grad[0, 0].abs().max() > 0, state.grad[0, 1:].abs().max() > 0
    print(f"hidden state {index - len(states):>2}: gradient at CLS {bool(cls)}, at the patches {bool(rest)}")
assert not states[-1].grad[0, 1:].any() and states[-2].grad[0, 1:].any()

# %% [markdown]
# At −1 the patches get **none, exactly none**: CLIP reads CLS there and throws the patches away. In all of its
# training nobody ever asked the last layer for a good patch. At −2 they still matter, because the last layer's
# CLS looks at them. So −2 is the last place at which patches were trained to be useful. (tiny-CLIP's texts about
# one thing ask for good patches at −2, too, since that is where LLaVA reads them.)
#
# How much does it cost to take −1 all the same? In LLaVA's own ablation, 89.96 instead of 90.92 on ScienceQA
# (arXiv 2304.08485): little, because a layer *adds* to what is there and rarely destroys it. The figure
# above says the same: our probes read nearly as much at −1. The gradient shows why −2 is the sound choice; it
# does not show that −1 must be much worse.
#
# ## Break it: the wrong layer
# One number in a config says which layer is read. tiny-LLaVA's projector was trained on −2. Feed it another.
#
# **Predict first:** −1 is one layer away, 0 is the patch embedding. Which will hurt more, and will either
# raise an error?

# %%
import minillava
from minillava.evaluation import evaluate
from minillava.evaluation.toybox import held_out

model = minillava.load("tiny")
frozen = clip.vision_model.state_dict()
print("its tower is tiny-CLIP, bit for bit:", all(
    torch.equal(value, frozen[name]) for name, value in model.vision_tower.state_dict().items()
))  # fmt: skip

# %%
questions = held_out("test")
right = {}
for layer in (-2, -1, 0):
    model.config.vision_feature_layer = layer
    report = evaluate(model, questions, types=["shape", "color"], limit=40)
    right[layer] = report.accuracy["sighted"]["all"]
model.config.vision_feature_layer = -2

# %% tags=["nbval-ignore-output"]
for layer, share in right.items():
    print(f"layer {layer:>2}: {share:.0%} right")

# %%
assert right[-2] > 1.5 * right[0]
print("no error at any layer; the worst is 0:", right[0] == min(right.values()))

# %% [markdown]
# No error: the shapes fit at every layer. At 0 the projector gets a language that it has never learned; at −1, one
# layer's additions more than it knows. The answers are as fluent as ever. This measures the *mismatch*, not the
# worth of a layer: for that a projector has to be trained on each. When your own LLaVA answers fluently and
# wrongly, check this number first.
#
# ## Takeaways
# - A patch is 432 numbers times a matrix, plus its place; layers let patches look at each other
#   (ViT, arXiv 2010.11929; CLIP, arXiv 2103.00020).
# - Place and much of color are there from the start; shape is what the layers add.
# - LLaVA reads hidden state −2 without CLS: the last place where patches were trained to matter
#   (arXiv 2304.08485; llava/model/multimodal_encoder/clip_encoder.py).
# - A map of patches against text is a claim. Hide and measure, or count against boxes.
#
# Next: [03 · The projector](03_projector.ipynb), which makes words of these features.
