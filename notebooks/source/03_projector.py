# %% [markdown]
# # 03 · The projector: how a patch becomes a word
#
# **After this notebook you can**
# - compute LLaVA's projector by hand, count its parameters, and say what its second layer adds to the first,
# - splice a picture into a sentence, and prove that the language model reads the rows you made,
# - test a pretty sentence, "patches become words", against a number.
#
# **You need** nothing but this repository: no GPU, no network.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. Lit are the projector and the splice."
from minillava.course import card

card("03")

# %% [markdown]
# CLIP gives us 64 rows of 128 numbers for a picture. The language model reads rows of 192 numbers, one a
# word. The two were trained apart and have never met: not even the widths agree. Between them LLaVA puts the
# smallest thing that could work.
#
# ## Three patches you can hold in your hand
# Three patches of two numbers, a first layer from 2 to 3, a second from 3 to 4. A layer is *rows times a
# matrix plus a bias*; between the two stands GELU, which lets large numbers pass and squashes negative ones
# toward 0.
#
# **Predict first:** what shape comes out? And the third patch is the sum of the first two: will its output be
# the sum of their outputs?

# %%
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

patches = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
w1 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])  # [out, in], as nn.Linear keeps it
w2 = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
b1, b2 = torch.zeros(3), torch.zeros(4)

hidden = patches @ w1.T + b1
words = F.gelu(hidden) @ w2.T + b2
print("before GELU", hidden.tolist())
print("after it   ", [[round(v, 2) for v in row] for row in F.gelu(hidden).tolist()])
print("words      ", [[round(v, 2) for v in row] for row in words.tolist()])
print("the third is the sum of the others:", torch.allclose(words[2], words[0] + words[1]))

# %% [markdown]
# Three rows of four numbers, and **no**: the third row's 0 in the third column is not 0.84 − 0.16. Had there been
# no GELU, the answer would be yes for any matrices (the biases are 0 here; one would be added once too often): a
# linear map of a sum is the sum of the maps. So a linear projector can only *mix* what a feature says. With a bend
# between two layers it can make a row for "red and round" that is not "red" plus "round".
#
# Write the general case, three lines at most:

# %%
from minillava.course import check, exercise, hint, solution

exercise("03.project")


# %%
def project(features, w1, b1, w2, b2):
    return NotImplemented


check("03.project", project)

# %% [markdown]
# ## The real one, by hand
# `mlp2x_gelu` is LLaVA-1.5's name for it: linear, GELU, linear. The original file of a trained projector names
# its tensors `mm_projector.0.weight` and `mm_projector.2.weight`: positions in an `nn.Sequential`, 1 being the
# GELU, which has no weights. `minillava` calls them `linear_1` and `linear_2`, as llava-hf does.

# %%
import minillava
from minillava.images import preprocess
from minillava.toybox import records
from minillava.toybox.draw import draw

model = minillava.load("tiny")
scene = records.scene("val", 41)
picture = draw(scene)
features = model.encode_images(preprocess(picture, 96, "pad")[None])  # [1, 64, 128]; squares need no padding

by_hand = nn.Sequential(nn.Linear(128, 192), nn.GELU(), nn.Linear(192, 192))
names = {"linear_1": "0", "linear_2": "2"}
trained = model.multi_modal_projector.state_dict()
by_hand.load_state_dict({names[key.split(".")[0]] + "." + key.split(".")[1]: trained[key] for key in trained})

assert_close(by_hand(features), model.project(features))
print("features", list(features.shape), "-> words", list(model.project(features).shape))

# %% [markdown]
# **Predict first:** we swap the *features* of two patches. What happens to the other 62 rows that the projector
# puts out?

# %%
with torch.no_grad():
    swapped = features.clone()
    swapped[0, [3, 40]] = features[0, [40, 3]]
    before, after = model.project(features)[0], model.project(swapped)[0]

moved = [i for i in range(64) if not torch.allclose(before[i], after[i])]
assert_close(after[[3, 40]], before[[40, 3]])
print("rows that changed:", moved)

# %% [markdown]
# Nothing: each patch is translated on its own, like a word looked up in a dictionary. So the projector cannot
# know that a star is *left of* a heart. What is where has to be in the features already (CLIP adds a position
# to each patch, lesson 02), or to follow from the order in which the rows are read.
#
# ## How much is it?
# **Predict first:** LLaVA-1.5-7B has 7 billion parameters. How many of them are the projector's? (CLIP is 1,024
# wide, Vicuna-7B 4,096.)

# %%
exercise("03.parameters")


# %%
def parameters(vision, text):
    return NotImplemented


check("03.parameters", parameters)

# %%
from minillava.projector import build_projector

for name, vision, text in (("tiny", 128, 192), ("7B", 1024, 4096), ("13B", 1024, 5120)):
    for kind in ("linear", "mlp2x_gelu"):
        with torch.device("meta"):  # shapes without numbers: 13B costs no memory here
            count = sum(p.numel() for p in build_projector(kind, vision, text).parameters())
        print(f"{name:<5}{kind:<11}{count:>11,}")

# %% [markdown]
# 21 million of 7 billion. `linear` is LLaVA version 1; version 1.5 took the second layer, and with it GQA went
# from 46.8 to 47.3, MME from 1323.8 to 1355.2 and MM-Vet from 26.3 to 27.8 (arXiv 2310.03744). A small gain,
# for next to nothing.
#
# ## The splice
# A prompt is token ids; a table turns each id into a row. `<image>` has an id too, and stands in the prompt
# once for every patch. The splice overwrites those rows. In small: five words with rows of two numbers, of
# which word 4 is `<image>`.
#
# **Predict first:** which rows of the result come from the table?

# %%
ids = torch.tensor([1, 4, 4, 4, 2, 3])
table = torch.arange(10.0).reshape(5, 2)  # word i is (2i, 2i + 1)
three = torch.tensor([[0.5, 0.25], [0.75, 0.5], [0.25, 0.0]])  # a picture of three patches

rows = table[ids]
rows[ids == 4] = three
print(rows.tolist())

# %% [markdown]
# The first and the last two. Word 4's own row, (8, 9), is looked up and thrown away. The original LLaVA has one
# sentinel, id −200, and makes the sequence longer at this point; with one placeholder for each patch the length
# is known before the model runs, and the result is the same, bit for bit (tests/parity).

# %%
exercise("03.splice")


# %%
def splice(ids, table, patches, image_id):
    return NotImplemented


check("03.splice", splice)

# %% [markdown]
# ## A picture in a sentence
# Now the real thing. **Predict first:** "What color is the triangle?" with its picture, in the v1 template of
# lesson 04: do the picture or the words take more positions?

# %%
question = "<image>\nWhat color is the triangle?"
turns = [{"from": "human", "value": question}, {"from": "gpt", "value": None}]
batch = model.prepare([turns], [[picture]])
input_ids, image_id = batch["input_ids"], model.config.image_token_id

with torch.no_grad():
    projected = model.project(features)  # [1, 64, 192]
    by_hand = model.language_model.get_input_embeddings()(input_ids)  # [1, T, 192]
    by_hand[input_ids == image_id] = projected[0]
    assert_close(by_hand, model.splice(input_ids, projected))
print("positions:", input_ids.shape[1], "of which picture:", (input_ids == image_id).sum().item())

# %% alt="One row of tokens, wrapped over several lines: the system prompt's words, then 64 little patches of the picture where one token stood, then the question's words and “ASSISTANT:”."
from minillava.conversation import encode, pieces
from minillava.course.figures import patches_of, token_strip

encoded = encode(turns, model.tokenizer, num_image_tokens=64)
strip = []
for text, kind in pieces(encoded, model.tokenizer):
    strip += [(patch, kind) for patch in patches_of(picture, 12)] if kind == "image" else [(text, kind)]
assert len(strip) == input_ids.shape[1]
token_strip(strip)

# %% [markdown]
# This is what LLaVA's language model reads: a system prompt, `USER:`, the picture row by row, the question. (We
# see the patches; it gets their 192 numbers.) Does anything remember where the rows came from? Hand the rows
# to the language model alone, a plain LLaMA:

# %%
with torch.no_grad():
    alone = model.language_model(inputs_embeds=by_hand).logits
    whole = model(input_ids, batch["pixel_values"]).logits
assert_close(alone, whole, atol=1e-4, rtol=1e-4)
same = alone[0, -1].argmax() == whole[0, -1].argmax()
print("a LLaMA fed with our rows says next what LLaVA does:", bool(same))

# %%
exercise("03.length")

# %%
rows = NotImplemented

check("03.length", rows)

# %% [markdown]
# ## Are they words?
# "Patches become words" is how everybody puts it, and so do we. If it were literally true, a red patch's row
# would lie near the row of the word *red*. Look: in each patch that word of Toybox's captions whose row points
# most nearly in the same direction, bold where it says something true of the thing there.

# %%
from minillava.images import PatchGeometry
from minillava.toybox import language
from minillava.toybox.scene import COLORS, PLACES, SHAPES

geometry = PatchGeometry(96, 96, 96, 12, "pad")
tokenizer = model.tokenizer
said = " ".join(text for i in range(100) for text in language.captions(records.scene("train", i)))
vocabulary = sorted({f"▁{word.strip('.,')}" for word in said.split()} & set(tokenizer.get_vocab()))
word_rows = model.language_model.get_input_embeddings().weight.detach()


def nearest_words(rows, words):
    """The word of each row [N, D]: the one with the largest cosine."""
    known = word_rows[tokenizer.convert_tokens_to_ids(words)]
    cosines = F.normalize(rows, dim=-1) @ F.normalize(known, dim=-1).T  # [N, words]
    return [words[i].removeprefix("▁") for i in cosines.argmax(dim=-1).tolist()]


# %% tags=["nbval-ignore-output"] alt="The picture with a word written on each of its 64 patches, the one nearest to what the projector made of that patch. Words that are true of what the patch shows are bold and framed, the others gray."
from minillava.course.figures import words_on_patches

found = nearest_words(projected[0], vocabulary)
there = [set() for _ in range(64)]
for thing in scene.objects:
    for patch in geometry.cells(thing.box).flatten().nonzero()[0]:
        there[patch] |= {thing.color, thing.shape, thing.size, thing.place}
words_on_patches(picture, found, [word in here for word, here in zip(found, there, strict=True)])

# %% [markdown]
# A pretty picture, and it may have been luck. Count. To be fair to the patches, let them choose among the eight
# color words only, then among the six shapes, then among the nine places, and compare with a projector that was
# never trained.
#
# **Predict first:** what would chance get? And which will be easiest: color, shape, or place?

# %%
scenes = [records.scene("val", index) for index in range(40)]
pixels = torch.stack([preprocess(draw(scene), 96, "pad") for scene in scenes])
features_of_40 = model.encode_images(pixels)  # [40, 64, 128]
torch.manual_seed(0)
untrained = build_projector("mlp2x_gelu", 128, 192)


@torch.no_grad()
def share_right(projector, attribute, values):
    right = []
    for scene, rows in zip(scenes, projector(features_of_40), strict=True):
        for thing in scene.objects:
            inside = torch.from_numpy(geometry.cells(thing.box)).flatten() > 0.6
            found = nearest_words(rows[inside], [f"▁{value}" for value in values])
            right += [word == getattr(thing, attribute) for word in found]
    return sum(right) / len(right)


# %%
asked = {"color": list(COLORS), "shape": list(SHAPES), "place": list(PLACES)}
trained = {name: share_right(model.multi_modal_projector, name, words) for name, words in asked.items()}
fresh = {name: share_right(untrained, name, words) for name, words in asked.items()}

# %% tags=["nbval-ignore-output"]
for name, words in asked.items():
    print(f"{name}: trained {trained[name]:.2f}, never trained {fresh[name]:.2f}, chance {1 / len(words):.2f}")

# %%
print("trained is half again as good as never trained:", sum(trained.values()) > 1.5 * sum(fresh.values()))

# %% [markdown]
# Hold each attribute against its own chance: with eight colors, six shapes and nine places they differ. And believe
# the last line. The projector has put patches into the neighborhood of the right words, though
# no loss ever asked for that: the caption's loss only wanted the right words to come *out*. (It may help that
# tiny-Vicuna has read words laid out in a grid before, several in one position: `minillava/pretrain/maps.py`. A
# projector that you train may end elsewhere: the language model then reads words of a language of their own, and
# "patches become words" is a manner of speaking.) Nor is it ever 1: a row says more than one word can. And the
# scores look at the rows that go *in*; what later layers make of them, they do not show.
#
# ## Break it: skip the projector
# Features are 128 numbers, words 192. Copy the 128 over and fill up with zeros, or take a projector with
# random weights: the shapes fit, nothing complains. **Predict first:** forty questions about shapes and colors,
# three projectors. What does a model with a picture that it cannot read do: refuse, or guess?

# %%
from minillava.evaluation import evaluate
from minillava.evaluation.toybox import held_out

copied = build_projector("linear", 128, 192)
copied.linear_1.weight.data = torch.eye(192, 128)
copied.linear_1.bias.data.zero_()

projectors = {"trained": model.multi_modal_projector, "copied": copied, "never trained": untrained}
questions = held_out("test")
right, says = {}, {}
for name, projector in projectors.items():
    model.multi_modal_projector = projector
    report = evaluate(model, questions, types=["shape", "color"], limit=40)
    right[name] = report.accuracy["sighted"]["all"]
    says[name] = model.answer(picture, f"What color is the triangle?\n{language.SHORT_ANSWER}")
model.multi_modal_projector = projectors["trained"]

# %% tags=["nbval-ignore-output"]
for name, share in right.items():
    print(f"{name:<14}{share:.0%} right; the triangle is {says[name]!r}")

# %%
assert right["trained"] > 1.5 * max(right["copied"], right["never trained"])
print("the trained projector gets at least half again as many right as either of the others")

# %% [markdown]
# It guesses, fluently and with a straight face: nothing in its text betrays that it sees noise. That is what a
# LLaVA looks like whose projector was not loaded, and projector files that do not fit or are not found fill many
# of its users' threads (haotian-liu/LLaVA issues 665, 1169, 1504); `minillava.load` names every missing tensor
# and stops. What the comparison does not show is how good a *linear* projector could be if it were trained.
#
# ## Takeaways
# - The projector is linear, GELU, linear, for each patch alone: 20,979,712 parameters in LLaVA-1.5-7B
#   (arXiv 2310.03744); version 1's was one matrix (arXiv 2304.08485).
# - A bend between two layers lets it treat a combination as something new; a linear map cannot.
# - The splice overwrites the placeholders' rows. From there on a picture is text, 576 positions long.
# - A projector that is missing or random raises no error. Only an accuracy beside its baselines tells.
#
# Next: [04 · Prompts and the loss mask](04_prompts_and_mask.ipynb), the words around the picture.
