# %% [markdown]
# # 07 · Where does it look? Rows of attention
#
# **After this notebook you can**
# - compute a row of attention by hand, and record it while fast attention runs,
# - say which row predicts a word, and draw an answer word by word, each over the picture,
# - name four pitfalls on the way to a map, and the number that catches each.
#
# **You need** nothing but this repository: no GPU, no network.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. Lit is attention, the question where the model looked."
from minillava.course import card

card("07")

# %% [markdown]
# "How can I get an attention map?" is what LLaVA's users have asked since February 2024 (haotian-liu/LLaVA issue
# 1080). The map is the easy part. Whether it *means* anything can be found out only where one knows what each
# word is about, and Toybox knows. Nine pitfalls lie on the way, and each gets a number: four on the way to a map, here,
# three when it is counted (07b), two when it is believed (07c).
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
# Now all rows at once, of which none may see what comes after it:

# %%
from minillava.course import check, exercise, hint, solution

exercise("07.attend")


# %%
def attend(queries, keys):
    return NotImplemented


check("07.attend", attend)

# %% [markdown]
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
# predicts them, so one draws their own row, or the next (lesson 07c). Off by one is the commonest bug of such
# maps, and invisible. What it costs is drawn below.
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
# of any ember. And the fourth: should it be brightest on a wrong thing though the answer is right, remember it. 07b
# counts such rows, 07c finds why they do no harm. (A period ends the format prompt, not printed.) So print how much
# there is to distribute, the picture's share of a row, its **image mass**. By itself that number means little:

# %%
exercise("07.mass")


# %%
def times_even(row, patches):
    return NotImplemented


check("07.mass", times_even)

# %% [markdown]
# The whole row, block by block, beside what each would have if all positions were alike:

# %% alt="Four stacked bars, one for each of the four rows: how its attention is divided among the picture, the system prompt and the question. A dashed line on each marks the picture's share if every position that the row sees got the same."
from minillava.attention_plots import attention_by_word

blocks = {"image": said.patches, "system": range(said.patches[0])}
blocks["question"] = range(said.patches[-1] + 1, len(said.ids))
mean = everything[:, :, at].mean((0, 1))  # [4, T]
shares = {name: mean[:, list(where)].sum(-1).tolist() for name, where in blocks.items()}
assert_close(torch.tensor(list(shares.values())).sum(0), torch.ones(4), atol=1e-4, rtol=1e-4)
alike = [len(said.patches) / (position + 1) for position in at]  # a row sees itself and what came before
attention_by_word(list(titles), shares, even=alike)

# %% tags=["nbval-ignore-output"]
mass = everything[..., said.patches].sum(-1)[:, :, at]  # [layers, heads, 4]
first = everything[:, :, at, 0]
print(f"image mass by head, of one row: from {mass[..., 2].min():.3f} to {mass[..., 2].max():.3f}")
print(f"on the first position alone, which means nothing: up to {first.max():.2f}")

# %% [markdown]
# Compare the picture's parts to the dashed lines, and to each other: a row about nothing may have nearly as much as the
# one that names the thing, and a function word of the caption below has more than a color. And heads differ from
# nothing to most of it. So mass does not tell what a row is about. What a head has no use for it parks on a **sink**:
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
# Do the bright patches lie in the white boxes? Mostly, it seems.
#
# ## Break it: one row too late
# **Predict first:** the same words, each by its *own* row instead of the one before (pitfall 3). Is there a map by
# which you would notice?

# %% alt="The same words as before, but each with the map of its own row, one too late. The maps of colors and shapes still lie on their things, much as before."
late = told.on_patches(told.attention(words).mean((0, 1)))
word_by_word(told.image, [told.tokens[word] for word in words], late, late.sum((1, 2)), boxes, columns=4)

# %% [markdown]
# As good as the right one. **Predict first:** these are means over all heads. Layer by layer, does a color's share in
# its box stay, or fall in some?

# %%
from minillava.grounding import mass_in_box

colors = slice(1, None, 2)  # every other word, after the function word
covers = np.stack([told.geometry.cells(box[0]) for box in boxes[colors]])
right, own = (told.attention(rows).mean(1)[:, colors] for rows in ([word - 1 for word in words], words))
in_box = [[mass_in_box(told.on_patches(row), covers).mean() for row in pair] for pair in zip(right, own, strict=True)]
fades = any(after < 0.5 * before for before, after in in_box)
print("in some layer a color's own row has lost more than half of its share:", fades)

# %% tags=["nbval-ignore-output"]
for layer, (before, after) in enumerate(in_box):
    print(f"layer {layer}: {before:.2f} in the box; one row late {after:.2f}")

# %% [markdown]
# One layer looks at the thing in every row that speaks of it, and the mean is mostly its. The first looks before the
# color is said, hardly after: only there the error shows. A mean hides what differs.
#
# But one caption is one caption: the next lesson counts.
#
# `minillava attend --image data/example.png "What color is the square?"` writes such maps for any picture: a figure,
# and a page on which each word shows its map, with its mass.
#
# ## Takeaways
# - The row before a token predicts it; record rows, not matrices. Fast attention returns nothing unasked.
# - A row hands out all of 1: what it has no use for lies on a sink (arXiv 2309.17453; in pictures, arXiv 2503.03321).
# - No map without its mass, and one scale for all maps of a figure.
# - A map is a picture of a row (arXiv 1902.10186 doubts that it explains anything). Whether it points is counted.
#
# Next: [07b · Does it point?](07b_does_it_point.ipynb) Maps counted, above chance.
