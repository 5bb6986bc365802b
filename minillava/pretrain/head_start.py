"""A head start for tiny-Vicuna: weights that begin as a lookup circuit, instead of growing one.

Answering "what color is the star?" about a text means finding the sentence that speaks of a star and
reading what else it says. Large models have heads for that (induction heads and their kin: Olsson et al.,
arXiv 2209.11895); from random weights they appear after many millions of tokens, of which two cores have
few. So the first two layers and the last start with the circuit's parts written in, everything else random,
and training does the rest. The residual stream begins as three shelves of equal width:

    word     what stands here: the embedding
    before   what stood one position back
    bag      what stood in the last seven positions, all in one heap: at the end of a sentence, the sentence

    layer 0  a third of the heads fills `before`; two thirds fill `bag`, looking back by distance alone
    layer 1  most heads match `word` and `before` with the bags of all earlier positions, and put what lies
             in the bag they find on the shelf `word`, from where the output reads; the others match `word`
             with `before` and put down what they find there: what followed the word when it last stood here
    last     half of the heads match `word`, where by now the answer lies, with words; what they put down is
             the bag found there: the letter that stands before an option

Measured with matching heads alone, after 300 steps of notes, on told scenes of five objects: 88 % of the
notes right. From a start with induction heads only, which find what followed a word, it was 55 %, and two
objects could not be told apart (70 %); that run had only seen scenes of two by then.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

WORD, BEFORE, BAG = range(3)
"""The shelves, in the order in which they lie in the residual stream."""


@dataclass(frozen=True)
class Look:
    """What a third of layer 0's heads does: look `back` positions, copy what stands there to a shelf.

    `sharpness` is the attention logit at the position looked at; how fast it falls off beside it depends on
    the RoPE frequencies used, `slowest` to `fastest` radians a position. `loud` scales what is copied.
    """

    back: float
    sharpness: float
    slowest: float
    fastest: float
    shelf: int
    loud: float


LOOKS = (
    Look(back=2.0, sharpness=8.0, slowest=0.17, fastest=0.6, shelf=BAG, loud=3.0),
    Look(back=5.5, sharpness=12.0, slowest=0.05, fastest=0.2, shelf=BAG, loud=3.0),
    Look(back=1.0, sharpness=15.0, slowest=0.3, fastest=1.0, shelf=BEFORE, loud=1.0),
)
"""Of "At the top-left is a large red star." the first sees the last three words, the second the place."""

MATCHING = 4
"""How many heads of layer 1 match with bags; the others find what followed."""

_MATCH = 2.4
"""Scale of the matching queries and keys: one word found in a bag is worth some 4 to 6 in the logit."""

_CONSTANT = 3.0
"""What every word embedding holds in dimension 0, in standard deviations: a direction for heads that
go by position alone, for LLaMA's attention has no biases."""


@torch.no_grad()
def start_with_lookup(model: LlamaForCausalLM, seed: int = 0) -> None:
    """Write the circuit into the embeddings, the first two layers and the last of a fresh model, in place.

    Needs untied embeddings, as many key heads as query heads, heads in threes, and three layers or more:
    raises ValueError for fewer, of which the last would overwrite the second.
    """
    if len(model.model.layers) < 3:
        raise ValueError(f"The head start needs three layers or more, not {len(model.model.layers)}.")
    noise = torch.Generator().manual_seed(seed)
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    shelf, size, third = width // 3, width // heads, heads // 3
    frequency = 10_000.0 ** (-torch.arange(size // 2) / (size // 2))  # RoPE, radians a position
    first, second, last = (model.model.layers[i].self_attn for i in (0, 1, -1))

    def random(rows: int) -> Tensor:
        """A projection of the shelf onto `rows` dimensions, blind to the constant."""
        projection = torch.randn(rows, shelf, generator=noise) / math.sqrt(shelf)
        projection[:, 0] = 0
        return projection

    # Words are random directions of one shelf, beside the constant; the output faintly reads that shelf.
    words = model.get_input_embeddings().weight
    words.zero_()
    words[:, :shelf].normal_(generator=noise)
    words[:, 0] = _CONSTANT
    model.lm_head.weight.normal_(0, 0.02, generator=noise)
    model.lm_head.weight[:, 1:shelf] += 0.05 * words[:, 1:shelf]
    rms = math.sqrt((shelf - 1 + _CONSTANT**2) / width)  # of a word, by which the norm divides it
    constant = _CONSTANT / rms

    # Layer 0: keys turned by `back` positions against queries; values and outputs are wires.
    for number, look in enumerate(LOOKS):
        used = (look.slowest <= frequency) & (frequency <= look.fastest)
        strength = used * math.sqrt(look.sharpness * math.sqrt(size) / used.sum()) / constant
        query = torch.cat([strength, torch.zeros_like(strength)])
        turned = look.back * frequency
        key = torch.cat([strength * turned.cos(), strength * turned.sin()])
        for part in range(third):
            head = (number * third + part) * size
            rows = slice(head, head + size)
            for projection, column in ((first.q_proj, query), (first.k_proj, key)):
                projection.weight[rows] = 0
                projection.weight[rows, 0] = column
            first.v_proj.weight[rows] = 0
            first.o_proj.weight[:, rows] = 0
            for i in range(part == 0, size):  # the word shelf's dimension 0 is the constant: not copied
                first.v_proj.weight[head + i, part * size + i] = rms
                first.o_proj.weight[look.shelf * shelf + part * size + i, head + i] = look.loud

    # Layer 1 and the last: matching in the slow dimensions, hardly turned by distance; what is found, copied.
    slow = (frequency < 0.011).repeat(2)

    def find(attention, head: int, said: dict[int, float], there: int, copied: int) -> None:
        """A head that matches shelves with the shelf `there` and puts what is on `copied` on WORD."""
        rows, match, wire = slice(head * size, (head + 1) * size), torch.zeros(size, shelf), random(size)
        match[slow] = _MATCH * random(int(slow.sum()))
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight[rows] = 0
        attention.o_proj.weight[:, rows] = 0

        def on(place: int) -> slice:
            return slice(place * shelf, (place + 1) * shelf)

        for place, share in said.items():
            attention.q_proj.weight[rows, on(place)] = share * match
        attention.k_proj.weight[rows, on(there)] = match
        attention.v_proj.weight[rows, on(copied)] = wire
        attention.o_proj.weight[on(WORD), rows] = wire.T

    for head in range(heads):
        if head < MATCHING:
            find(second, head, {WORD: 1, BEFORE: 0.7}, BAG, BAG)
        else:
            find(second, head, {WORD: 1}, BEFORE, WORD)
    for head in range(heads // 2):
        find(last, head, {WORD: 1}, WORD, BAG)
