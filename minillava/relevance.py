"""From attention to relevance: six ways to ask which patches an answer rests on.

    raw          the attention itself
    sink_masked  without the positions that draw attention whatever is asked
    relative     more than for a question about nothing in particular
    rollout      attention followed through all layers
    gradient     attention that would change the answer, followed through all layers
    logit_lens   where the patches' own states already say the answer's word

Each takes a `Passage` and returns a `Relevance`: one [grid, grid] map per token of the answer, in the order
in which they were said. The numbers mean different things (a share, a ratio, a probability), so compare
maps of two methods by what `grounding` says of them, which is blind to scale.

Each has its arithmetic in a function of its own, on plain tensors. L layers, H heads, T positions, n tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from minillava.attention import indices
from minillava.images import PatchGeometry
from minillava.passage import Passage, eager, passage

Indices = Sequence[int] | None

GENERIC = "Write a general description of the image."
"""Asks for nothing in particular (relative attention of arXiv 2502.17422)."""

LEAST = 0.01
"""Part of an even share below which `relative` takes the generic question's attention no more seriously.

Our addition: a sharp head leaves patches with 1e-20 of its attention, and next to that anything is a lot.
"""

SINK_ENERGY = 20**2 / 4096
"""Share of a hidden state's energy in one dimension that makes its position a sink, 0.098.

arXiv 2503.03321 calls a position a sink where one of the sink dimensions, divided by the state's root mean
square, exceeds τ = 20, for a width of 4096. No such value exceeds the width's square root, so a narrow model
would never have a sink; as a share of the sum of squares the bound can be met at any width (and is met by
chance below a hundred or so, and by what was learned in a narrow model: in tiny-LLaVA, of width 192, many an
ordinary word meets it in the first layers, and is a sink by this rule though little attention falls on it).
"""


@dataclass(frozen=True)
class Relevance:
    """How much each patch counts for each token of an answer.

    Attributes:
        tokens: the answer's tokens, n of them.
        maps: [n, grid, grid], none negative.
        geometry: between patches and the original picture's pixels.
    """

    tokens: list[str]
    maps: np.ndarray
    geometry: PatchGeometry

    @property
    def pictures(self) -> np.ndarray:
        """The maps in the original picture's own pixels, [n, height, width]: padding is gone."""
        return np.stack([self.geometry.heatmap(one) for one in self.maps])


def _relevance(said: Passage, per_position: Tensor) -> Relevance:
    """[n, T] -> Relevance."""
    return Relevance(said.tokens[said.start :], said.on_patches(per_position), said.geometry)


def raw(said: Passage, layers: Indices = None, heads: Indices = None) -> Relevance:
    """Attention of the rows that predict the answer, mean over layers and heads: shares of the row."""
    return _relevance(said, said.attention(said.rows, layers, heads).mean((0, 1)))


def sink_masked(said: Passage, layers: Indices = None, heads: Indices = None) -> Relevance:
    """`raw` with the first position and all sinks left out, the rest of each row scaled up to 1.

    Sinks take most of the attention and say nothing; removing them hardly changes answers (Kang et al. 2025,
    arXiv 2503.03321, on surplus attention).
    """
    weights = said.attention(said.rows, layers, heads)
    states = said.hidden_states()[:-1]
    sinks = find_sinks(states)
    sinks[0, 1:] = False  # the first layer reads embeddings, which no layer has made massive
    sinks = sinks[indices(layers, len(states), "layer")]
    return _relevance(said, without(weights, sinks).mean((0, 1)))


def find_sinks(states: Tensor) -> Tensor:
    """Positions with massive activations, and the first one: states [L, T, D] -> bool [L, T].

    The dimensions to look at are those that are massive at the first position in the same layer (D_sink of
    arXiv 2503.03321, section on telling sinks apart; massive activations: Sun et al. 2024, arXiv 2402.17762).
    """
    energy = states.float() ** 2
    massive = energy / energy.sum(-1, keepdim=True) >= SINK_ENERGY  # [L, T, D]
    sinks = (massive & massive[:, :1]).any(-1)
    sinks[:, 0] = True
    return sinks


def without(weights: Tensor, sinks: Tensor) -> Tensor:
    """Rows [L, H, n, T] without the columns sinks [L, T], scaled back to a sum of 1; 0 if nothing is left."""
    kept = weights.masked_fill(sinks[:, None, None], 0)
    total = kept.sum(-1, keepdim=True)
    return kept / total.where(total > 0, 1)


def relative(
    said: Passage, layers: Indices = None, heads: Indices = None, generic: str = GENERIC
) -> Relevance:
    """How many times the attention that a generic question gives each patch of the same picture.

    Per layer, the mean over heads of each row divided by that of the row that would begin the generic answer;
    then the mean over layers (relative attention, Zhang et al. 2025, arXiv 2502.17422, who then choose one
    layer, 14 in LLaVA-1.5-7B). Above 1: more for this question than for any.
    """
    nothing = passage(said.model, said.image, generic, max_new_tokens=1)
    usual = nothing.attention([nothing.start - 1], layers, heads)[..., nothing.patches]  # [L, H, 1, N]
    asked = said.attention(said.rows, layers, heads)[..., said.patches]
    ratio = relative_to(asked, usual, floor=LEAST / len(nothing.ids))
    return Relevance(said.tokens[said.start :], _square(said, ratio), said.geometry)


def relative_to(asked: Tensor, usual: Tensor, floor: float) -> Tensor:
    """Ratio of attention, [L, H, n, N] and [L, H, 1, N] -> [n, N]: heads averaged before, layers after.

    `usual` counts as at least `floor`.
    """
    return (asked.mean(1) / usual.mean(1).clamp_min(floor)).mean(0)


def rollout(said: Passage, layers: Indices = None, heads: Indices = None) -> Relevance:
    """Attention multiplied through all layers, with the residual stream as half of each.

    Abnar & Zuidema 2020, arXiv 2005.00928, section 3. It knows no classes, and where a sink takes most
    attention, so does it.
    """
    weights = said.attention(range(len(said.ids)), layers, heads)
    return _relevance(said, rolled_out(weights)[said.rows])


def rolled_out(weights: Tensor) -> Tensor:
    """Π (A + I) / 2 over layers, A the mean over heads: [L, H, T, T] -> [T, T], later layers to the left."""
    identity = torch.eye(weights.shape[-1], device=weights.device)
    joint = identity
    for layer in weights.mean(1):
        joint = (layer + identity) / 2 @ joint
    return joint


def gradient(said: Passage) -> Relevance:
    """Gradient x attention, followed through all layers: one backward pass per token of the answer.

    Chefer et al. 2021, arXiv 2103.15679, section 3, equations 5 and 6, of the logit of the token that was
    said. It goes through the words in between: what the answer's row takes from "yellow", and "yellow" from
    the picture, counts.
    """
    model = said.model.language_model
    embeds = said.embeds().requires_grad_()  # so that there is a graph, even if the weights are frozen
    with torch.enable_grad(), eager(said.model):
        out = model(inputs_embeds=embeds, use_cache=False, output_attentions=True)
    relevance = []
    for row, index in zip(said.rows, said.answer_ids, strict=True):
        gradients = torch.autograd.grad(out.logits[0, row, index], out.attentions, retain_graph=True)
        weights, slopes = (torch.cat(list(stack)).float() for stack in (out.attentions, gradients))
        relevance.append(propagated(weights, slopes)[row])
    return _relevance(said, torch.stack(relevance))


@torch.no_grad()
def propagated(weights: Tensor, gradients: Tensor) -> Tensor:
    """R += mean_h((∇A ⊙ A)⁺) R, layer by layer from R = I: two [L, H, T, T] -> [T, T]."""
    relevance = torch.eye(weights.shape[-1], device=weights.device)
    for layer in (weights * gradients).clamp_min(0).mean(1):
        relevance = relevance + layer @ relevance
    return relevance


@torch.no_grad()
def logit_lens(said: Passage, layer: int = -1) -> Relevance:
    """Probability that each patch's state would say the answer's token, read after `layer`.

    The final norm and the head, applied to the patches (logit lens, nostalgebraist 2020; on LLaVA's patches:
    Neo et al. 2024, arXiv 2410.07149, section on visual token representations). -1 is the last layer.
    """
    states = said.hidden_states()
    (layer,) = indices([layer], len(states) - 1, "layer")
    model = said.model.language_model
    norm = nn.Identity() if layer == len(states) - 2 else model.model.norm  # the last is normed already
    said_by = read_out(norm(states[layer + 1, said.patches]), model.lm_head, said.answer_ids)
    return Relevance(said.tokens[said.start :], _square(said, said_by), said.geometry)


def read_out(states: Tensor, head: Callable[[Tensor], Tensor], ids: list[int]) -> Tensor:
    """Probability of each id at each state: [N, D] and n ids -> [n, N]."""
    return head(states).float().softmax(-1)[:, ids].T


def _square(said: Passage, per_patch: Tensor) -> np.ndarray:
    """[n, N] -> [n, grid, grid]."""
    grid = said.geometry.grid
    return per_patch.unflatten(-1, (grid, grid)).cpu().numpy()


METHODS: dict[str, Callable[[Passage], Relevance]] = {
    "raw": raw,
    "sink-masked": sink_masked,
    "relative": relative,
    "rollout": rollout,
    "gradient": gradient,
    "logit lens": logit_lens,
}
