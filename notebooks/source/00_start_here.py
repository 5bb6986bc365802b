# %% [markdown]
# # 00 · Start here: a model that sees, and where it looks
#
# **After this notebook you can**
# - ask a finished LLaVA a question about a picture,
# - name its three parts and say what each one hands to the next,
# - look at the attention behind an answer, and say why one picture of it proves nothing.
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
from minillava.grounding import measure
from minillava.images import open_image
from minillava.toybox.language import SHORT_ANSWER

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
# This picture was never trained on: the repository ships 1,600 held-out questions about 200 such pictures.

# %%
questions = held_out("test")
row = next(r for r in questions if r["id"] == "toybox/test/0/62/1")
picture = open_image(row["image"]["bytes"])
picture.resize((288, 288), 0)

# %%
asked = [
    "Which color does the square have?",
    "Where is the square?",
    "What shape is the green object?",
]
for question in asked:
    answer = model.answer(picture, question + "\n" + SHORT_ANSWER)
    print(f"{question:<36}{answer}")

# %% [markdown]
# Two are right; the last is not: the green thing is the square. The answers are short because the question ends
# with LLaVA-1.5's *format prompt*, "Answer the question using a single word or phrase." (arXiv 2310.03744,
# section 3.2). Ask for a description and it writes one. Compare it with the picture, thing by thing: what is
# right, what is made up?

# %%
print(model.answer(picture, "Describe the picture in detail."))

# %% [markdown]
# ## Does it really look?
# A model could guess. So every accuracy in this course stands beside the same model's accuracy **blind** (no
# picture) and **shuffled** (somebody else's picture). A hundred questions about shapes and colors, three ways:
#
# **Predict first:** six shapes, eight colors. How many does a guesser get right?

# %%
from minillava.evaluation import evaluate

report = evaluate(model, questions, types=["shape", "color"], limit=100, baselines=("blind", "shuffled"))
right = {column: round(100 * accuracy["all"]) for column, accuracy in report.accuracy.items()}
assert right["sighted"] > 2 * max(right["blind"], right["shuffled"])
print(
    "sighted", right["sighted"] // 10 * 10, "or more of 100 right; blind and shuffled less than half of that"
)

# %% [markdown]
# Only its own picture gets it that far: the answers come off the pixels. It is also far from perfect. The
# [card](../data/tiny-llava/README.md) has the whole table: at this size and after minutes of training it reads
# colors, shapes, sizes and places, and hardly relates or counts.
#
# What the number does *not* show is how an answer is found. For that we look at its attention.
#
# ## Where does it look?
# Every word is a row of attention: how much it took from each earlier position, the 64 patches of the picture
# among them. For *"Which color does the square have?"* two rows are worth a look: the word *square*, and the
# last position of the prompt, which predicts the answer.

# %%
maps = attention.answer_maps(model, picture, f"{asked[0]}\n{SHORT_ANSWER}", max_new_tokens=8)
print("answer:", maps.answer)
print("words: ", "|".join(maps.prompt.tokens[:10]))

# %%
word = maps.prompt.find("square")[-1]
plots.attention_overlay(
    picture,
    maps.prompt.maps[word].mean((0, 1)),
    boxes=row["boxes"],
    title="the word 'square', all layers and heads together",
    mass=float(maps.prompt.mass[word].mean()),
)

# %% [markdown]
# The word *square* seems to look at the square. **Do not believe it yet**: one map may be luck. Toybox knows
# where every object is, so we can count instead: over sixty questions, how often is such a map's brightest patch
# on the right object? And how often does the best single head point at it, or at *another* object?

# %%
examples = []
for r in [r for r in questions.select(range(300)) if len(r["references"]) == 1][:60]:
    m = attention.answer_maps(model, r["image"]["bytes"], r["question"], max_new_tokens=1)
    boxes = [[round(96 * v) for v in thing["bbox"]] for thing in r["instances"]]
    others = [m.geometry.cells(box) for box in boxes if box != r["boxes"][0]]
    at = m.prompt.find(r["references"][0])[-1]
    examples.append((m.prompt.maps[at], m.geometry.cells(r["boxes"][0]), others))
pointing = measure(examples)["pointing"].summary()

# %% tags=["nbval-ignore-output"]
for name in ("mean_map", "best_head", "other_object", "area"):
    print(f"{name:<13}{pointing[name]:.2f}")

# %%
better = pointing["best_head"] > 1.5 * pointing["other_object"]
print("the best head points at the right object much more often than at another one:", better)

# %% [markdown]
# Whatever this prints is what the shipped weights do; the text above will not talk you out of it. Where the
# right object wins clearly, the map means something; where it does not, the model found its answer in some
# other way, and one pretty picture would have fooled us. Attention over patches is often less than it looks:
# lesson 07 takes this apart.
#
# ## Takeaways
# - LLaVA is two pretrained models and a projector between them (LLaVA, arXiv 2304.08485, section 4.1).
# - Patches become words: 64 here, 576 in LLaVA-1.5.
# - An accuracy means little without its blind and shuffled twins, and a heat map little without a number.
