# %% [markdown]
# # 00 · Start here: a model that sees, and where it looks
#
# **After this notebook you can**
# - ask a finished LLaVA a question about a picture,
# - name its three parts and say what each one hands to the next,
# - look at the attention behind an answer, and say why one picture of it proves nothing.
#
# **You need** nothing but this repository: no GPU, no network.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. All of it is lit."
from minillava.course import card

card("00")

# %% [markdown]
# The one idea of the whole course: *a frozen vision encoder's patch features, pushed through a two-layer MLP,
# become words that a language model can read.*

# %%
import minillava
from minillava.evaluation.looking import look, sights
from minillava.evaluation.toybox import held_out
from minillava.images import open_image

model = minillava.load("tiny")
questions = held_out("test")

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
# The projector is the smallest by far, and the only part made for LLaVA: the vision tower and the language model
# existed before, and had never met. In LLaVA-1.5-7B it is 0.02 billion of 7 billion (arXiv 2310.03744).
#
# ## Ask
# This picture was never trained on: of the many that the repository ships, with questions and right answers, the
# first whose question about a shape the model gets right.

# %% alt="Several colored shapes, a star among them, on a pale and slightly cloudy ground, so enlarged that single pixels can be seen."
shapes = (s for s in sights(questions) if len(s.things) >= 3 and s.asked["type"] == "shape")
sight = next(s for s in shapes if model.answer(s.image, s.asked["question"]) == s.asked["answer"])
picture = open_image(sight.image)
picture.resize((288, 288), 0)

# %%
from transformers import TextStreamer

streamer = TextStreamer(model.tokenizer, skip_special_tokens=True)
said = model.answer(picture, "Describe the picture in detail.", streamer=streamer)

# %% [markdown]
# It writes word after word; run the cell again and watch. Thing by thing: what is right, is anything made up? Now
# what the repository asks about this picture:

# %%
from minillava.evaluation.metrics import normalise_answer
from minillava.toybox.language import TYPES

for row in questions:
    if row["image"]["bytes"] != sight.image or row["type"] not in TYPES:
        continue
    said = model.answer(picture, row["question"])
    right = normalise_answer(said) == normalise_answer(row["answer"])
    print(f"{row['question'].split(chr(10))[0]:<56}{said:<14}", "✓" if right else f"✗ {row['answer']}")

# %% [markdown]
# Behind a ✗ stands what would have been right. Answers are short because each question ends with LLaVA-1.5's *format
# prompt* (arXiv 2310.03744, table 7), not printed above. Ask something yourself:

# %%
from minillava.course import check, exercise, hint, solution

exercise("00.ask")


# %%
def ask(model, picture, color):
    return NotImplemented


check("00.ask", ask)

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
print("sighted it gets more than twice as many right as blind or shuffled")

# %% tags=["nbval-ignore-output"]
print(right, "of 100")

# %% [markdown]
# A guesser gets one shape in six and one color in eight, 12 to 17 of 100. Only its own picture gets far beyond: the
# answers come off the pixels. The
# [card](../data/tiny-llava/README.md) has the same for every type of question.

# %%
exercise("00.worth")

# %%
seen = NotImplemented

check("00.worth", seen)

# %% [markdown]
# ## Where does it look?
# Every word is a row of attention: how much it took from each earlier position, the picture's 64 patches among them.
# (Each of thirty *heads* makes its own; we draw their mean.) Two rows are worth a look: that of the words naming a
# thing, and the one that predicts the answer.

# %% alt="The picture and two heat maps of attention over its patches: one for the word of the question that names a thing, one for the first word of the answer. The shapes are outlined and the thing asked about is boxed; under each map stand its share of attention and its peak."
from minillava import attention
from minillava.attention_plots import word_by_word

maps = attention.answer_maps(model, picture, sight.asked["question"], max_new_tokens=8)
word = maps.prompt.find(sight.asked["references"][0])[-1]
print(sight.asked["question"].split("\n")[0], "→", maps.answer)
heats = [maps.prompt.maps[word].mean((0, 1)), maps.answered.maps[0].mean((0, 1))]  # over layers and heads
names = [f"“{maps.prompt.tokens[word].strip()}”, asked", f"“{maps.answered.tokens[0].strip()}”, answered"]
assert max(heat.sum() for heat in heats) <= 1
word_by_word(picture, names, heats, [heat.sum() for heat in heats], [sight.asked["boxes"]] * 2)

# %% [markdown]
# In white, the thing asked about; under each map, how much of the row's attention is on the picture, and on its
# brightest patch. Does the light fall into the box? **Do not believe it yet**: one map may be luck. Toybox
# knows where everything is, so count, for the first of the two rows: in sixty pictures, how often is the best head's
# brightest patch on the right thing? And how often on *another*?

# %%
from minillava.grounding import measure

looks = look(model, list(sights(questions))[:60]).word
points = measure([(one.maps, one.cover, one.others) for one in looks])["pointing"].summary()
assert points["best_head"] > 2 * points["area"]

# %% tags=["nbval-ignore-output"]
for name in ("best_head", "mean_map", "other_object", "area"):
    print(f"{name:<13}{points[name]:.2f}")
clear = points["best_head"] > 1.5 * points["other_object"]
print("it points at the right thing much more often than at another one:", clear)

# %% [markdown]
# Where the right thing wins clearly, the map means something; where not, one pretty picture would have fooled us.
# (`mean_map` is the mean of all heads, `area` what a dart would hit. Lesson 07b tells why chance is more than that,
# and why the row of a right answer may be black.)
#
# ## Takeaways
# - LLaVA is two pretrained models and a projector between them (LLaVA, arXiv 2304.08485).
# - Patches become words: 64 here, 576 in LLaVA-1.5.
# - An accuracy means little without its blind and shuffled twins, and a heat map little without a number.
#
# Next: [01 · Toybox](01_toybox.ipynb), the data all of this was learned from.
