# %% [markdown]
# # 07 · Where does it look? Attention, measured
#
# **After this notebook you can**
# - compute a row of attention by hand, and record it while fast attention runs,
# - name seven ways in which a heat map fools its maker, and the number that catches each,
# - find the rows and heads that point, without fooling yourself, and say what they score above chance.
#
# **You need** nothing but this repository: no GPU, no network.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. Lit is attention, the question where the model looked."
from minillava.course import card

card("07")

# %% [markdown]
# "How can I get an attention map?" is what LLaVA's users have asked since February 2024 (haotian-liu/LLaVA issue
# 1080). The map is the easy part. Whether it *means* anything can be found out only where one knows what each
# word is about, and Toybox knows. Nine pitfalls lie on the way; each gets a number, seven here and two in
# the lesson after.
#
# ## Three words you can hold in your hand
# A row of attention belongs to one position, and says how much it takes from each earlier one. Its **query** is
# compared with everybody's **key** by a dot product, and softmax makes shares of the results.
#
# **Predict first:** three words with keys of two numbers; the third word's query is (2, 0). Whom does it attend
# to most, and what do its shares add up to?

# %%
import torch
from torch.testing import assert_close

keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
query = torch.tensor([2.0, 0.0])
row = (query @ keys.T / 2**0.5).softmax(-1)  # divided by the root of how many numbers a key has
print([round(share, 2) for share in row.tolist()], "sum", round(row.sum().item(), 2))

# %% [markdown]
# The first and the third alike: along the query's direction they are the same. The shares add up to 1, always. So
# a row that finds nothing cannot look nowhere; it has to park its attention somewhere. Remember this for later.
#
# ## The real thing, by hand
# A question that the repository ships, a picture of at least three things, and an answer of **tiny-LLaVA** that is
# right:

# %%
import numpy as np

import minillava
from minillava.evaluation.looking import sights
from minillava.evaluation.toybox import held_out
from minillava.passage import passage

model = minillava.load("tiny").requires_grad_(False)
seen = [sight for sight in sights(held_out("test")) if len(sight.things) >= 3][:60]
shapes = [sight for sight in seen if sight.asked["type"] == "shape"]
sight = next(s for s in shapes if model.answer(s.image, s.asked["question"]) == s.asked["answer"])
said = passage(model, sight.image, sight.asked["question"], max_new_tokens=8)
print(sight.asked["question"].split("\n")[0], "→", said.answer)
print("positions:", len(said.ids), "of which patches:", len(said.patches))

# %% [markdown]
# `passage` keeps question and answer as one sequence. Follow it into the first layer, first head: a norm, two
# matrices, and RoPE, which turns queries and keys by an angle that grows with their position.

# %%
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

llama = model.language_model.model
states = said.hidden_states()[0]  # what enters layer 0: [T, width]
attention, width = llama.layers[0].self_attn, llama.layers[0].self_attn.head_dim
normed = llama.layers[0].input_layernorm(states)
q, k = attention.q_proj(normed)[:, :width], attention.k_proj(normed)[:, :width]  # head 0
angles = llama.rotary_emb(states[None], torch.arange(len(states))[None])
q, k = (turned[0, 0] for turned in apply_rotary_pos_emb(q[None, None], k[None, None], *angles))
future = torch.ones(len(states), len(states)).triu(1).bool()
by_hand = (q @ k.T / width**0.5).masked_fill(future, -torch.inf).softmax(-1)

everything = said.attention(range(len(said.ids)))  # [layers, heads, T, T]
assert_close(by_hand, everything[0, 0], atol=1e-5, rtol=1e-4)
print("by hand and recorded: the same rows,", len(by_hand), "of them")

# %% [markdown]
# ## Pitfall 1: ask the library, get nothing
# `output_attentions=True` is how one asks transformers for these rows.
#
# **Predict first:** fast attention (`sdpa`) never forms the whole matrix. What will the library return: an error,
# a slow answer, or something else?

# %%
from minillava.attention import record
from minillava.passage import eager

embeds = said.embeds()
fast = model.language_model(inputs_embeds=embeds, output_attentions=True).attentions
with eager(model):
    slow = model.language_model(inputs_embeds=embeds, output_attentions=True).attentions
with record(model, rows=said.rows) as recording:  # fast attention runs; the rows are made beside it
    model.language_model(inputs_embeds=embeds)
assert_close(recording.weights[0], torch.cat(slow)[:, :, said.rows], atol=1e-5, rtol=1e-4)
print("sdpa:", len(fast), "layers   eager:", len(slow), "  record:", len(recording.layers))

# %% [markdown]
# An empty tuple and a warning that scrolls away. Slow (`eager`) attention has it all. `record` lets the fast one
# run and forms only the rows that were asked for, equal to the slow ones. What for?
#
# ## Pitfall 2: all of it does not fit
# **Predict first:** LLaVA-1.5-7B, 32 layers of 32 heads, 650 positions, two bytes a number. How much is all of it, for
# one picture? And 32 rows?

# %%
layers, heads, length = 32, 32, 650
print(f"all rows {layers * heads * length**2 * 2 / 1e6:.0f} MB, "
      f"32 rows {layers * heads * 32 * length * 2 / 1e6:.0f} MB")  # fmt: skip

# %% [markdown]
# ## Pitfall 3: the row of a word has not said it
# Each position reads what came before and guesses what comes next. To see where the model looked *in order to say*
# a word, which row do you take?

# %%
from minillava.course import check, exercise, hint, solution

exercise("07.rows")


# %%
def predicting(prompt, answer):
    return NotImplemented


check("07.rows", predicting)

# %%
by_hand = [position - 1 for position in range(said.start, len(said.ids))]
assert by_hand == said.rows
for position in by_hand:
    print(f"the row of {said.tokens[position]!r} predicts {said.tokens[position + 1]!r}")

# %% [markdown]
# The word's own row looks *after* it was said. For words of the question it is the other way round: nobody
# predicts them, and their own row is what reads the picture for them. Off by one is the commonest bug of such
# maps, and invisible. What it costs stands in a table below.
#
# ## Pitfall 4: everything looks hot
# Four tokens of the prompt, mean over all heads, each map drawn from 0 to its own peak.
#
# **Predict first:** the second ends the words that name the thing asked about, and the fourth predicts the
# answer; the other two are about nothing. Will you see it?

# %% alt="The picture and four heat maps over its patches, one for each row of attention: the question's first word, the word that names the thing, the question's last token, a period, and the row that predicts the answer. The thing asked about is boxed on each; the maps differ."
from minillava.course.figures import maps_row

asked = sight.asked["question"]
words = asked.split()
phrases = [words[0], sight.asked["references"][0], words[-1]]  # begins, names the thing, ends
at = [said.find(phrase, said.patches[-1])[-1] for phrase in phrases] + [said.start - 1]
rows = said.on_patches(everything[:, :, at].mean((0, 1)))  # [4, grid, grid]
titles = {f"{i}: {said.tokens[at[i - 1]].strip()}": rows[i - 1] for i in (1, 2, 3, 4)}
assert rows.max() > 0
maps_row(said.image, titles, {title: sight.asked["boxes"] for title in titles})

# %% [markdown]
# Each has its bright patches, the rows about nothing as well: a scale that ends at each map's own peak makes a fire
# of any ember. (Where a row is a period: it ends the format prompt, which is not printed.) So print how much there is
# to distribute. The picture's share of a row, its **image mass**, block by block:

# %% alt="Four stacked bars, one for each of the four rows: how its attention is divided among the picture, the system prompt and the question. A dashed line on each marks the picture's share if every position that the row sees got the same."
from minillava.attention_plots import attention_by_word

blocks = {"image": said.patches, "system": range(said.patches[0])}
blocks["question"] = range(said.patches[-1] + 1, len(said.ids))
mean = everything[:, :, at].mean((0, 1))  # [4, T]
shares = {name: mean[:, list(where)].sum(-1).tolist() for name, where in blocks.items()}
assert_close(torch.tensor(list(shares.values())).sum(0), torch.ones(4), atol=1e-4, rtol=1e-4)
alike = [len(said.patches) / (position + 1) for position in at]  # a row sees itself and what came before
attention_by_word([said.tokens[p] for p in at], shares, even=alike)

# %% tags=["nbval-ignore-output"]
mass = everything[..., said.patches].sum(-1)[:, :, at]  # [layers, heads, 4]
first = everything[:, :, at, 0]
print(f"image mass by head, of one row: from {mass[..., 2].min():.3f} to {mass[..., 2].max():.3f}")
print(f"on the first position alone, which means nothing: up to {first.max():.2f}")

# %% [markdown]
# Compare the colon's bars to the dashed lines, and to each other: a row about nothing may have nearly as much as the
# one that names the thing, or more. And heads differ from nothing to most of it. So mass does not tell what a row is
# about. What a head has no use for it parks on a **sink**:
# the first token, a word of the system prompt, in large models certain patches of the background (arXiv 2503.03321).
# `relevance.sink_masked` leaves them out, `relevance.relative` divides by the attention of a question about nothing;
# both change the picture more than the model. So: one scale for all maps, and the mass beside each.
#
# ## The answer, word by word
# So drawn, here is a whole caption: the true one, put into the model's mouth, so that every word has a
# box that we know. For each thing the rows that predict its color and its shape, and a function word.

# %% alt="The picture and a heat map for each word: one function word, then the color and the shape of each thing in the caption, all on one scale and with the share of attention beneath. The thing that a word is about is boxed."
from minillava.attention_plots import word_by_word
from minillava.toybox.records import DESCRIBE

told = passage(model, sight.image, DESCRIBE, answer=sight.asked["captions"][0])
words, boxes = [told.start], [[]]
for name, box in sight.things:  # in the caption's order
    for part in name.split():
        words.append(told.find(part, words[-1] + 1)[0])
        boxes.append([box])
maps = told.on_patches(told.attention([word - 1 for word in words]).mean((0, 1)))  # [tokens, grid, grid]
masses = maps.sum((1, 2))
assert len(maps) == 1 + 2 * len(sight.things) and masses.max() <= 1
word_by_word(told.image, [told.tokens[word] for word in words], maps, masses, boxes, columns=4)

# %% [markdown]
# Do the bright patches lie in the white boxes? Each eye finds what it hopes for, and several things are
# several chances. Stop looking, and count.
#
# ## Count
# A map **points** if its strongest patch lies on the right thing. Sixty pictures, every layer and head.

# %%
exercise("07.points")


# %%
def points(heat, inside):
    return NotImplemented


check("07.points", points)

# %%
from minillava.evaluation.looking import look, untrained
from minillava.grounding import pointing, truth

found = look(model, seen)  # of each picture: rows [R, layers, heads, grid, grid], and the true box
bare = look(untrained(model), seen)  # the same network, its weights drawn anew
hits = [
    [bool(truth(one.cover).flatten()[heat.argmax()]) for layer in one.maps[0] for heat in layer]
    for one in found.color
]
by_hand = torch.tensor(hits, dtype=torch.float64)  # [60, layers * heads]
package = [pointing(one.maps[0], one.cover).flatten() for one in found.color]
assert_close(by_hand, torch.tensor(np.array(package)))
print("pointing by hand is the package's, for", len(hits), "pictures and every head")

# %% [markdown]
# ## Pitfall 5: chance is not the box's area
# The thing covers about a twenty-fifth of the picture, so a dart hits it once in twenty-five throws.
#
# **Predict first:** the *untrained* network knows nothing of color or shape. How often does a head of it point at
# the right thing: about as often as the dart, less, or more?

# %%
from minillava.grounding import measure


def scored(looks):
    return measure([(one.maps, one.cover, one.others) for one in looks])["pointing"]


ours, theirs = scored(found.color), scored(bare.color)
chance = {"area": ours.area.mean(), "untrained": theirs.grid.max()}
assert chance["untrained"] > 1.5 * chance["area"]
print("an untrained head beats the dart:", bool(chance["untrained"] > 1.5 * chance["area"]))

# %% tags=["nbval-ignore-output"]
print({name: round(float(score), 2) for name, score in chance.items()})

# %% [markdown]
# Far more. (The best of sixty: thirty heads in the row before the color, and thirty in the color's own, which has
# read its name.) Attention, even a random one, likes what stands out from the ground, and things do; that the thing
# is the *right* one of three or more is luck. So "several times the area" proves nothing. What counts as chance is an
# untrained network (arXiv 1810.03292), and the same map held against *another* thing in the picture.
#
# ## Pitfall 6: the best of many
# That untrained head was the best of all. **Predict first:** throw 30 coins 20 times each, and pick the coin with
# the most heads. How many has it? And if you throw that coin again?

# %%
throws = np.random.default_rng(0).random((1000, 2, 20, 30)) < 0.5  # a thousand tries of it, each twice
first, again = throws.sum(2).swapaxes(0, 1)  # heads of each coin, [1000, 30]
best = first.argmax(-1)
print("the best coin:  ", round(first.max(-1).mean()), "heads of 20, on average")
print("the same, again:", round(again[np.arange(1000), best].mean()), "of 20")

# %% [markdown]
# A splendid coin, until it has to prove itself. Heads are no better. Choose on one half of the pictures, score on
# the other:

# %%
exercise("07.honest")


# %%
def honest(scores):
    return NotImplemented


check("07.honest", honest)

# %%
from minillava.grounding import chosen_elsewhere

flat = by_hand.numpy()
halves = [flat[1::2, flat[0::2].mean(0).argmax()], flat[0::2, flat[1::2].mean(0).argmax()]]
(fair,) = chosen_elsewhere(flat)
assert_close(torch.tensor(np.concatenate(halves).mean()), torch.tensor(fair.mean()))
for one in (ours, theirs):
    (fair,) = chosen_elsewhere(one.heads)
    assert fair.mean() <= one.grid.max() + 1e-9
print("chosen elsewhere, no head scores higher than it did at home")

# %% [markdown]
# ## Choose the row before the head
# Now the whole table. For a word of the *question* that names a thing ("the yellow star"), rows from its own
# first token on; for a word of the *caption*, the row before it and its own (pitfall 3); and the row that
# predicts the *answer*, which most tools draw.
#
# **Predict first:** which of the rows will point best?

# %%
from minillava.evaluation.looking import PREDICTING, REFERRING
from minillava.evaluation.metrics import bootstrap_interval

candidates = {"word": REFERRING, "color": PREDICTING, "shape": PREDICTING, "answer": PREDICTING[:1]}
table = {}
for kind, names in candidates.items():
    mine, plain = scored(getattr(found, kind)), scored(getattr(bare, kind))
    for r, name in enumerate(names):
        best, other = chosen_elsewhere(mine.heads[:, r], mine.other[:, r])
        table[f"{kind}: {name}"] = {
            "best head": best.mean(), "mean of heads": mine.mean_map[:, r].mean(), "other thing": other.mean(),
            "untrained": chosen_elsewhere(plain.heads[:, r])[0].mean(), "area": mine.area.mean(),
            "at least": bootstrap_interval((best - other).tolist())[0],
        }  # fmt: skip

# %% tags=["nbval-ignore-output"]
from IPython.display import Markdown

columns = table["answer: the row before"]
lines = [f"| row | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
for name, scores in table.items():
    lines.append(f"| {name} | {' | '.join(f'{score:.2f}' for score in scores.values())} |")
Markdown("\n".join(lines))

# %% tags=["nbval-ignore-output"]
for name, s in table.items():
    clear = s["at least"] > 0.1 and s["best head"] > s["untrained"] + 0.1
    better = "best head" if s["best head"] > s["mean of heads"] else "mean map"
    print(f"{name:<23}", "points; " if clear else "unclear;", better, "higher")
named = [name for name in table if "the word itself" not in name]  # which has said it
print("the row to look at:", max(named, key=lambda name: table[name]["mean of heads"]))

# %%
assert max(s["best head"] for s in table.values()) > 1.5 * max(s["area"] for s in table.values())
caption = [s for name, s in table.items() if "row before" in name and "answer" not in name]
print("the rows that predict a caption's words beat the other things:",
      all(s["best head"] > s["other thing"] for s in caption))  # fmt: skip

# %% [markdown]
# (*at least* is how far the best head beats the other thing, at the lower end of a 95 % interval over the pictures: who
# has seen pitfall 6 does not take a difference of a few pictures for a finding. What is *unclear* may be luck.)
#
# *color: the word itself* and *shape: the row before* are one and the same row, for a shape stands right behind its
# color. So an error of one (pitfall 3) is hidden at a color, whose next word is about the same thing. It shows at the
# shape, *the row before* against *the word itself*, after which the caption moves on: by the mean of heads it costs
# much, by the best head little or nothing, for one head looks *back* at the thing just named. Pointing alone does not
# tell reading in order to say from having said; that is why rows are chosen by what they predict.
#
# Read the verdict on *answer: the row before* before you believe any tool that draws one fixed row. A picture can
# reach an answer by way of a word of the question, and then the answer's own row is blank while nothing is wrong;
# or by the answer's row alone, and then the question's words are.
#
# ## Pitfall 7: the mean of heads, or one of them?
# Papers warn of the mean over heads, which blurs, and of single heads, which were picked. Which is better is a number,
# so both columns stand. Here is what the mean is made of: by layer and head, for the caption's colors (the framed one
# is the inflated best of pitfall 6, the baseline another thing's score):
#
# %% alt="A grid of layers by heads, each cell with the head's score: how often its map, of the row before a color, points at the thing of that color. The best cell is framed, and the score for another thing is given beside the color scale."
from minillava.plots import head_grid

assert ours.heads.shape[1] == len(PREDICTING)
another = table["color: the row before"]["other thing"]
head_grid(ours.grid[0], "the row before a color: does it point?", baseline=another)

# %% [markdown]
# Layer 1 stands out, which is no surprise. tiny-Vicuna did not have to grow its first *lookup heads*: some had been
# written in before its training, which was on text alone, four of layer 1's six among them, to find a thing by its
# words (`minillava/pretrain/head_start.py`). That they point at *patches* is what the
# stages taught, for which pictures laid out in words had prepared it (`maps.py` beside it). In a large model nobody
# knows beforehand which heads do this, so they have to be found.
#
# Does the map follow the *question*? Pictures are asked about a thing A, and then about B. A head scores 1 if each
# thing gets more attention when it is asked about than when the other is, else 0. A map that ignores the question
# scores 0; noise, which is two tosses of a coin, a quarter.

# %%
from minillava.grounding import specificity

pairs = [(a, b) for a, b in zip(found.word, found.also, strict=True) if b]
follows = np.array([specificity(a.maps, a.cover, b.maps, b.cover) for a, b in pairs])
right = np.array([one.right for one in found.color])
best = chosen_elsewhere(ours.heads[:, 0])[0]
assert len(pairs) > 10 and len(right) == len(best) == len(seen)

# %% tags=["nbval-ignore-output"]
print(f"specific: {chosen_elsewhere(follows)[0].mean():.2f} of {len(pairs)} pictures")
for name, these in (("rightly", best[right]), ("wrongly", best[~right])):
    print(f"colors said {name}: the row before pointed {int(these.sum())} of {len(these)} times")

# %% [markdown]
# The last lines keep right and wrong apart. If a model points as well when it is wrong, it looked at the right thing
# and misread it (arXiv 2510.17771 reports this of large models); a map is then no sign of a right answer. (Where it
# says *of 0*, the model made no such mistake, and this cannot be told.)
#
# ## Break it: the wrong picture's boxes
# What is left of all this pointing if each map is held against the boxes of the *next* picture?
#
# **Predict first:** does it fall to zero, to the dart's one in twenty-five, or to what the untrained network had?

# %%
one, *rest = found.color
swapped = [(a.maps, b.cover, b.others) for a, b in zip(found.color, [*rest, one], strict=True)]
broken = chosen_elsewhere(measure(swapped)["pointing"].heads[:, 0])[0].mean()
assert broken < 0.5 * best.mean()
print("with the wrong picture's boxes less than half of it is left")

# %% tags=["nbval-ignore-output"]
print(f"its own boxes {best.mean():.2f}, the next picture's {broken:.2f}, area {chance['area']:.2f}")

# %% [markdown]
# To the dart's level, or below, and not to the untrained network's: who follows what is in *this* picture knows
# nothing of the next. Toybox strews its things about; where photographers put theirs in the middle the swap leaves
# more, and that much of a score was never about the picture.
#
# `minillava attend --image data/example.png "What color is the square?"` writes this for any picture: a figure,
# and a page on which each word shows its map, with its mass.
#
# ## Takeaways
# - The row before a token predicts it; record rows, not matrices. Fast attention returns nothing unasked.
# - No map without its mass, and none without a score: pointing (arXiv 1608.00507), or the share of the mass that lies in
#   the true box (CLEVR-XAI, arXiv 2003.07258).
# - Chance is an untrained network and another thing, not the area; choose heads on one half, score on the other.
# - Choose the row before the head: which of them points is found out, not assumed (arXiv 2503.06287 finds three heads
#   without any boxes; so does `minillava.heads.find_heads`).
#
# Next: [07b · What does it rest on?](07b_what_it_rests_on.ipynb) Looking is not using: evidence, taken away.
