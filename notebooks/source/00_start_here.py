# %% [markdown]
# # 00 · Start here: a model that sees, and where it looks
#
# **After this notebook you can**
# - ask a finished LLaVA a question about a picture,
# - name its three parts and say what each one hands to the next,
# - look at the attention behind an answer, and know which row of it to look at.
#
# **You need** nothing but this repository: no GPU, no network. It takes about a minute.
#
# ```
#   picture ──► vision tower ──► projector ──► 64 "words" ─┐
#               (CLIP, frozen)   (two layers)              ├──► language model ──► answer
#   question ────────────────────► tokens ─────────────────┘    (LLaMA)
# ```
#
# The one idea of the whole course: *a frozen vision encoder's patch features, pushed through a two-layer
# MLP, become words that a language model can read.*

# %%
import minillava
from minillava import attention, plots
from minillava.evaluation.toybox import held_out
from minillava.images import open_image

model = minillava.load("tiny")

# %% [markdown]
# This is **tiny-LLaVA**: LLaVA-1.5's architecture and training recipe at a size a laptop trains in minutes.
# It knows *Toybox*, a small world of colored shapes, and nothing else. Where do its parameters sit?
#
# **Predict first:** which of the three parts is the smallest?

# %%
for name, part in model.named_children():
    count = sum(p.numel() for p in part.parameters())
    print(f"{name:<23}{count:>10,} parameters")

# %% [markdown]
# The projector is the smallest by far, and the only part that was made for LLaVA: the vision tower and the
# language model existed before, and had never met. In LLaVA-1.5-7B the proportions are even more lopsided:
# 0.02 of 7 billion (LLaVA-1.5, arXiv 2310.03744, section 3).
#
# ## Ask
# These pictures were never trained on: the repository ships 1,600 held-out questions about them.

# %%
questions = held_out("test")
row = questions[ROW]
picture = open_image(row["image"]["bytes"])
picture.resize((288, 288), 0)

# %%
for question in QUESTIONS:
    print(f"{question:<44}{model.answer(picture, question)}")

# %% [markdown]
# Short questions get short answers because half of stage 2's questions end with LLaVA-1.5's *format prompt*:
# "Answer the question using a single word or phrase." Ask for a description and you get sentences:

# %%
print(model.answer(picture, "Describe the picture in detail."))

# %% [markdown]
# ## Does it really look?
# A model could guess. So every accuracy in this course stands beside the same model's accuracy **blind** (no
# picture) and **shuffled** (somebody else's picture). Forty questions, three ways:

# %%
from minillava.evaluation import evaluate

report = evaluate(model, questions.select(range(40)), baselines=("blind", "shuffled"))
for column, accuracy in report.accuracy.items():
    print(f"{column:<10}{round(40 * accuracy['all'])} of 40 right")

# %% [markdown]
# Only with its own picture does the model do well: it reads the answers off the pixels. What this does *not*
# show is how it finds them. For that we look at its attention.
#
# ## Where does it look?
# Every word is a row of attention: how much it took from each earlier position, the 64 patches of the
# picture among them.
#
# **Predict first:** for *"What color is the star?"*, which word's row points at the star: the answer's, or
# a word of the question?

# %%
maps = attention.answer_maps(model, picture, ASKED)
print(maps.answer)
print(maps.prompt.tokens)

# %%
word = maps.prompt.find(REFERENCE)[-1]
layer, head = LAYER, HEAD
plots.attention_overlay(
    picture,
    maps.prompt.maps[word, layer, head],
    boxes=row["boxes"],
    title=f"{REFERENCE!r} in layer {layer}, head {head}",
    mass=float(maps.prompt.mass[word, layer, head]),
)

# %% [markdown]
# The row of the *referring word* points at the object: by the time the answer is due, what it needs has
# already been fetched and carried along the text. That is why attention maps of the answer's own row, which
# most tools show, are often blank or misleading. Lesson 07 measures this.
#
# ## Takeaways
# - LLaVA is two pretrained models and a projector between them (LLaVA, arXiv 2304.08485, section 4.1).
# - Patches become words: 64 here, 576 in LLaVA-1.5.
# - An accuracy means little without its blind and shuffled twins, and a heat map little without a number.
