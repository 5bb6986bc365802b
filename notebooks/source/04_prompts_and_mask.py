# %% [markdown]
# # 04 · Prompts and the loss mask
#
# **After this notebook you can**
# - write LLaVA's two prompts to the letter, and say for every token whether it is learned,
# - compute the loss that training minimizes from logits and labels,
# - cause the most reported failure of LLaVA, a loss of 0, in two ways, and catch both before they cost a night.
#
# **You need** nothing but this repository: no GPU, no network.

# %% alt="The course's map of LLaVA: Toybox's pictures pass the vision tower and the projector, its words become a prompt, and both are spliced into one row for the language model, which answers. Lit is the prompt, with its tokens and their labels."
from minillava.course import card

card("04")

# %% [markdown]
# A language model learns to predict the next token. Of which tokens, though? The question was written by a
# person, the system prompt by LLaVA's authors, and the picture by nobody; only the answer is ours to learn.
# Saying which token is which is called **masking**. It takes a few lines, and what goes wrong in them is the
# failure that LLaVA's users report most.
#
# ## Five tokens you can hold in your hand
# "USER: sky? ASSISTANT: blue </s>" in five tokens, say. The model gave each right next token the probability
# below. The loss of a token is −ln of that: 0 where the model was sure, large where it was surprised. A label
# of −100 says *not this one*.
#
# **Predict first:** is the mean over all tokens larger or smaller than that over the answer?

# %%
import math

import torch
import torch.nn.functional as F
from torch.testing import assert_close

tokens = ["USER:", "sky?", "ASSISTANT:", "blue", "</s>"]
probability = [0.50, 0.02, 0.90, 0.80, 0.95]  # of each token, given those before it
answer = [False, False, False, True, True]

losses = [-math.log(p) for p in probability]
for token, loss, learned in zip(tokens, losses, answer, strict=True):
    print(f"{token:<11}loss {loss:.2f}   {'learned' if learned else 'label -100'}")
print(f"mean over all {sum(losses) / 5:.2f}, over the answer {sum(losses[3:]) / 2:.2f}")

# %% [markdown]
# Larger: nobody can foresee what a user will ask, so the question's tokens have a high loss that no training
# takes away. Left in, they drown the answer. The same in PyTorch, whose cross-entropy skips −100:

# %%
logits = torch.tensor([[math.log(p), math.log(1 - p)] for p in probability])  # right word, any other
labels = torch.tensor([0 if learned else -100 for learned in answer])  # 0: the right word's id
by_hand = torch.tensor(sum(losses[3:]) / 2)
assert_close(F.cross_entropy(logits, labels), by_hand)
print("by hand and by PyTorch:", round(by_hand.item(), 4))

# %% [markdown]
# One thing is missing. A language model's logits at position t are about token t + 1, so logits and labels are
# shifted against each other before they meet. LLaVA's labels are stored *unshifted*: the label at a position is
# that position's own id.

# %%
from minillava.course import check, exercise, hint, solution

exercise("04.loss")


# %%
def masked_loss(logits, labels):
    return NotImplemented


check("04.loss", masked_loss)

# %% [markdown]
# ## Stage 2's prompt: `v1`
# A record's turns become one text. Its shape is Vicuna's, because Vicuna is the language model, and this is the
# shape in which it has learned to converse.
#
# **Predict first:** in the record below `<image>` stands at the *end* of the question. Where will it be?

# %%
import minillava
from minillava.conversation import SYSTEM, encode

model = minillava.load("tiny")
tokenizer = model.tokenizer

# %%
turns = [
    {"from": "human", "value": "What color is the triangle?\n<image>"},
    {"from": "gpt", "value": "black"},
    {"from": "human", "value": "Is it large or small?"},
    {"from": "gpt", "value": "large"},
]
encoded = encode(turns, tokenizer, num_image_tokens=64)
by_hand = (
    f"{SYSTEM} USER: <image>\nWhat color is the triangle? ASSISTANT: black</s>"
    "USER: Is it large or small? ASSISTANT: large</s>"
)
assert encoded.prompt == by_hand
print(encoded.prompt)

# %% [markdown]
# In front, on a line of its own; LLaVA moves it there, wherever it was written (`preprocess_multimodal`). Note
# three small things that are easy to get wrong: a space after every colon, `</s>` glued to the
# answer, and nothing between `</s>` and the next `USER`. There is also a near twin, `llava_v1`, which says
# "curious human" for "curious user"; LLaVA-1.5 was trained and evaluated on this one
# (haotian-liu/LLaVA issue 129).

# %%
exercise("04.prompt")


# %%
def v1(system, pairs):
    return NotImplemented


check("04.prompt", v1)

# %% [markdown]
# ## The token strip
# **Predict first:** how many tokens of this conversation will be learned? Count the answers' words, and do not
# forget what ends them.

# %% alt="A conversation as a row of tokens. Only the two answers and the token that ends each are marked as learned; system prompt, picture and questions are not."
from minillava.conversation import pieces
from minillava.course.figures import token_strip

strip = list(pieces(encoded, tokenizer))
learned = [text for text, kind in strip if kind == "answer"]
assert len(learned) == encoded.n_supervised and learned.count("</s>") == 2
print(encoded.n_supervised, "of", len(encoded.input_ids), "positions are learned:", learned)
token_strip(strip)

# %% [markdown]
# Gray is given, purple is the picture's 64 positions (576 in LLaVA-1.5), green and underlined is learned: each
# answer with the space before it, and its `</s>`. That last one matters: it is how the model learns to *stop*.
# (An empty box is a `▁`: each text before or after a picture begins with one; the other is a space.)
# The strip is the first thing to look at when a training looks odd; `minillava inspect` prints it for any
# record of any file.
#
# ## The mask by hand
# How does one know which tokens are the answer's? A fast tokenizer tells for each token which characters it
# stands for. So: find the answers in the *text*, and learn the tokens that begin inside one.

# %%
exercise("04.labels")


# %%
def labels(ids, spans, answers):
    return NotImplemented


check("04.labels", labels)

# %%
text_turns = [{**turn, "value": turn["value"].replace("\n<image>", "")} for turn in turns]
wanted = encode(text_turns, tokenizer, has_image=False)

answers = []
for start in ("ASSISTANT:" + rest for rest in wanted.prompt.split("ASSISTANT:")[1:]):
    first = wanted.prompt.index(start) + len("ASSISTANT:")
    answers.append((first, wanted.prompt.index("</s>", first) + len("</s>")))

tokens = tokenizer(wanted.prompt, return_offsets_mapping=True)
by_hand = [
    token if any(first <= start < last for first, last in answers) else -100
    for token, (start, end) in zip(tokens.input_ids, tokens.offset_mapping, strict=True)
]
assert_close(torch.tensor(by_hand), torch.tensor(wanted.labels))
print("labels by hand are the package's:", sum(label != -100 for label in by_hand), "learned")

# %% [markdown]
# (Where a tokenizer puts `<s>` in front, its span is (0, 0): no characters, and no answer begins there.) One
# tokenization gives both ids and labels, so they cannot disagree. Keep this in mind; the original does it
# differently.
#
# ## Stage 1's prompt: `plain`
# Stage 1 wants one thing: given the picture, say the caption. So its prompt has no system text, no `USER`, and
# drops the human's request altogether.
#
# **Predict first:** the caption is learned. What ends it: `</s>`, a newline, or nothing?

# %% alt="The plain template as a row of tokens: a start token, the picture, then the caption and a line break. The caption and the line break are marked as learned, and nothing before them."
caption = [
    {"from": "human", "value": "<image>\nDescribe the picture in detail."},
    {"from": "gpt", "value": "A black triangle at the top-left."},
]
plain = encode(caption, tokenizer, template="plain", num_image_tokens=64)
strip = list(pieces(plain, tokenizer))
assert plain.prompt == "<image>A black triangle at the top-left.\n"
assert not [text for text, kind in strip if kind == "prompt" and text != "<s>"]
token_strip(strip)

# %% [markdown]
# A newline, and no `</s>` (`preprocess_plain`). With nothing but the picture before it, *what* the caption says can only come from the picture: that
# is the design of stage 1. (How captions *go* can be learned from any picture; lesson 05 tells the two apart.) What a
# stage-1 model has *not* learned is to stop, or to answer.
#
# ## What the model minimizes
# The model's own loss, from a batch of one. **Predict first:** the labels cover the whole row, 64 positions of
# picture included. Will `masked_loss` above, on the model's logits, be its loss?

# %%
from minillava.images import preprocess
from minillava.toybox import records
from minillava.toybox.draw import draw

picture = draw(records.scene("val", 41))
batch = {
    "input_ids": torch.tensor([encoded.input_ids]),
    "pixel_values": preprocess(picture, 96, "pad")[None],
    "labels": torch.tensor([encoded.labels]),
}
with torch.no_grad():
    output = model(**batch)
shifted, target = output.logits[0, :-1], batch["labels"][0, 1:]
learned = target != -100
assert_close(F.cross_entropy(shifted[learned], target[learned]), output.loss)
print("mean over", learned.sum().item(), "learned tokens of", len(target))

# %% [markdown]
# It is. So far, so good: here is how it goes wrong.
#
# ## Cause it: LLaVA's loss of 0
# "Loss is 0.0" is the first complaint of LLaVA's users (issues 661, 816, 1166, 1706 and many more), and it
# carries to every project that copied its code. The original finds the mask by **counting**: tokenize each
# round alone, tokenize its question alone, add the lengths up. If the sum is not the length of the whole, it
# cannot know which tokens are whose, and ignores the sample: all labels −100, and a printed warning that
# scrolls away. Here is that rule, in our words. `correction` is what is taken off each later round: LLaVA takes
# off 1 with newer tokenizers, because Vicuna's writes `USER` with one token less after `</s>` than at the start.
#
# **Predict first:** our conversation has two rounds. For how many of the corrections −1, 0 and 1 will the sum be
# right, and what is learned with the others?

# %%
def labels_by_counting(prompt, correction):
    ids = tokenizer(prompt).input_ids
    labels, position = list(ids), 1  # <s>
    labels[0] = -100
    for number, turn in enumerate(prompt.split("</s>")[:-1]):
        question = turn.split("ASSISTANT:")[0] + "ASSISTANT: "
        asked = len(tokenizer(question).input_ids) - 2  # its <s>, and the space that belongs to the answer
        length = len(tokenizer(turn).input_ids)  # its <s> stands in for the </s> that was cut off
        if number:
            asked, length = asked - correction, length - correction
        labels[position : position + asked] = [-100] * asked
        position += length
    return labels if position == len(ids) else [-100] * len(ids)


# %%
counted = {correction: labels_by_counting(wanted.prompt, correction) for correction in (-1, 0, 1)}
learned = {correction: sum(label != -100 for label in found) for correction, found in counted.items()}
assert [counted[c] == wanted.labels for c in learned].count(True) == 1
for correction, tokens_learned in learned.items():
    print(f"correction {correction:>2}: {tokens_learned} tokens learned")

# %% [markdown]
# 0 fits; with the others, one token off, *nothing* is learned. Which one fits is a property of the tokenizer,
# and LLaVA's constant is Vicuna's: another language model, or another version of a library, and the count is
# off. So it is after an empty answer, or one that contains "ASSISTANT:". Single rounds pass, so a first test on
# one question looks fine. What does the loss do?
#
# **Predict first:** the mean over no tokens: 0, an error, or something else?

# %%
from transformers import TrainingArguments

nothing = torch.tensor(min(counted.values(), key=lambda found: sum(label != -100 for label in found)))
logits = torch.zeros(len(nothing), len(tokenizer))
print("PyTorch says:", F.cross_entropy(logits[:-1], nothing[1:]).item())
print("the Trainer hides it:", TrainingArguments.__dataclass_fields__["logging_nan_inf_filter"].default)

# %% [markdown]
# It is 0 / 0, *not a number*. The Trainer that LLaVA uses filters such losses from its log by default and
# shows the average of those that are left: with none left, **0.0**. So a training that learns nothing looks
# like one that is perfect. (With other samples in the batch it is harder to notice still: the loss is normal,
# filter or not, and a share of the data is silently gone.)
#
# ## Cause it again: no room for the answer
# The second way needs no tokenizer. A picture takes its positions *before* the answer, and `max_length` cuts
# the tail. LLaVA-1.5: 2,048, of which 576 are the picture.

# %%
exercise("04.room")


# %%
def room(max_length, pictures, words):
    return NotImplemented


check("04.room", room)

# %%
first = next(i for i, label in enumerate(encoded.labels) if label != -100)
for name, max_length in (("all of it", None), ("one answer", first + 2), ("up to the answer", first)):
    cut = encode(turns, tokenizer, num_image_tokens=64, max_length=max_length)
    kinds = [problem.split(":")[0] for problem in cut.problems]
    print(f"{name:<17}{cut.n_supervised} learned ", *kinds)

# %% [markdown]
# In the last row the question fits, the picture fits, and nothing is learned. It is the long conversations with
# a picture that this hits, those one would least like to lose.

# %% [markdown]
# ## Catch it
# Four guards stand one behind the other in `minillava`. `audit` reads the whole file before the first step; `encode`
# puts into words what is wrong with a sample; the data set refuses to hand it out and says which record it is; and
# the model refuses a batch in which nothing is learned.
#
# **Predict first:** which of them speaks up if a single record of a million has an empty answer?

# %%
from minillava.data import InstructionDataset, audit

mute = [{**turn, "value": "" if turn["from"] == "gpt" else turn["value"]} for turn in turns]
record = {"id": "mute", "image": picture, "conversations": mute}
print("encode: ", encode(mute, tokenizer, num_image_tokens=64).problems[-1])
print("audit:  ", *audit([record]).problems)
try:
    InstructionDataset([record], tokenizer, "v1", "pad", 96, 64)[0]
except ValueError as error:
    print("dataset:", error)
try:
    model(**{**batch, "labels": torch.full_like(batch["labels"], -100)})
except ValueError as error:
    print("model:  ", error)

# %% [markdown]
# The audit does, before the first step, with the record's id; the data set would in its turn. The model's guard
# sees whole batches only: one mute sample among 31 others would get past it. That is why there are several. None
# of them can see a mask that is *wrong* and not empty. For that, look at the strip.
#
# ## Break it: learn the prompt too
# The opposite mistake raises no error at all: labels for every word, the question and the system prompt too.
#
# **Predict first:** of what training then learns, how much is about answers?

# %% alt="Two bars of the tokens in the loss. Masked, all of them belong to the answers; unmasked, the answers are a thin slice and the prompt is nearly everything."
from minillava.course.figures import shares

image = batch["input_ids"] == model.config.image_token_id
unmasked = batch["input_ids"].masked_fill(image, -100)
counts = {"answer": encoded.n_supervised, "prompt": int((unmasked != -100).sum()) - encoded.n_supervised}
assert counts["prompt"] > 5 * counts["answer"]
shares({"masked": {"answer": encoded.n_supervised}, "unmasked": counts}, "tokens in the loss")

# %%
def pull(labels):
    """Where the loss pulls the projector's weights, as one long vector."""
    model.zero_grad()
    model(**{**batch, "labels": labels}).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.multi_modal_projector.parameters()])


right, wrong = pull(batch["labels"]), pull(unmasked)
same = F.cosine_similarity(right, wrong, dim=0)
model.zero_grad()
print("the two losses pull the projector the same way:", bool(same > 0.9))
print("the unmasked one pulls a hundred times as hard:", bool(wrong.norm() > 100 * right.norm()))

# %% [markdown]
# A thin slice of answer, and the rest is mostly the same system prompt every time: a loss about the wrong thing.
# tiny-LLaVA answers this question without fail, so the right loss has nothing left to ask of it; the wrong one pulls
# hard, and elsewhere, to make it recite its prompt. This is one batch, and one moment of a model that has finished
# learning; what it costs after a whole training is a matter for an ablation.
#
# ## The prompt you generate from
# **Predict first:** to answer, the prompt has to end exactly where the answer begins. With `ASSISTANT:`, or
# with `ASSISTANT: ` and its space?

# %%
def ending(prompt):
    return tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)[-3:]


ask = [text_turns[0], {"from": "gpt", "value": None}]
prompt = encode(ask, tokenizer, has_image=False).prompt
print("to answer:   ", ending(prompt))
print("with a space:", ending(prompt + " "))
print("in training: ", tokenizer.convert_ids_to_tokens(tokenizer(prompt + " black").input_ids)[-3:])

# %% [markdown]
# Without. In training the answer's first token brought its own space (`▁black`); a prompt that ends in a space
# ends in a token, `▁`, that never stood there. Most models recover, some do not, and neither tells you.
#
# ## Takeaways
# - Stage 1 `plain`: image, caption, newline. Stage 2 `v1`: Vicuna's conversation, in which answers and their
#   `</s>` are learned (arXiv 2304.08485; `preprocess_plain`, `preprocess_v1` in llava/train/train.py).
# - The loss is the mean cross-entropy of learned tokens, each predicted from the position before it.
# - A loss of 0 is a loss over nothing. It comes from masks found by counting and from answers cut away.
# - Find the mask in the text, once, together with the ids; then look at the strip before you train.
#
# Next: [05 · Stage 1](05_stage_1.ipynb), in which the projector learns to be read.
