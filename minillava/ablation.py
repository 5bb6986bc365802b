"""Taking away what an answer may rest on: patches, attention edges, heads.

Attention says where a model looks, not whether that matters. What matters is missed when it is gone.

    with knock_out(model, rows, columns, layers=[0]):  # edges from rows to columns carry nothing
        model.generate(...)

The price in right answers, beside its controls, is counted by `evaluation.damage`.

B batch, T positions of the padded prompts, N patches, L layers.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from minillava.attention import attention_stack, indices
from minillava.images import open_image, preprocess
from minillava.model import MiniLlava, Picture
from minillava.passage import Passage


@contextmanager
def knock_out(
    model: nn.Module, rows: Tensor, columns: Tensor, layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Cut the attention edges from every row to every column of a sample, in some layers.

    Attention knockout (Geva et al. 2023, arXiv 2304.14767, section on information flow): the score of a cut
    edge is -inf before the softmax, so the rest of the row's attention grows. A row that would be left with
    nothing to look at, as the first one without itself, keeps the edge to itself. Works under sdpa and eager
    attention, in one pass and in `generate`, but not with several beams; `record` inside shows the cut.

    Args:
        model: as for `attention.record`.
        rows, columns: bool [B, T], positions of the padded prompt. If a sample's last position is a row, then
            so are all positions generated after it: they go on with the same answer.
        layers: where to cut, negative from the end; all by default.

    Raises:
        ValueError: as `attention.record`'s.
    """
    stack = attention_stack(model)

    def cut(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        mask, cache = kwargs.get("attention_mask"), kwargs.get("past_key_values")
        earlier = int(cache.get_seq_length(module.layer_idx)) if cache is not None else 0
        here = torch.arange(earlier, earlier + hidden.shape[1], device=hidden.device)
        keys = mask.shape[-1] if mask is not None else int(here[-1]) + 1
        if len(hidden) != len(rows):
            raise ValueError(
                f"`rows` are of {len(rows)} samples, but {len(hidden)} came: beams and several replies to a "
                "prompt multiply it. Ask without them."
            )
        edges = _from(rows.to(hidden.device), here) & _to(columns.to(hidden.device), keys)
        if mask is None:  # numbers, not bool, for eager attention adds them
            unseen = torch.arange(keys, device=hidden.device) > here[:, None]
            unseen &= kwargs.get("is_causal", module.is_causal)
            mask = hidden.new_zeros(1, 1, *unseen.shape).masked_fill(unseen, torch.finfo(hidden.dtype).min)
        seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        itself = torch.arange(keys, device=hidden.device) == here[:, None]
        emptied = seen.any(-1, keepdim=True) & ~(seen & ~edges).any(-1, keepdim=True)
        edges = edges & ~(emptied & itself)
        if mask.dtype == torch.bool:
            mask = mask & ~edges
        else:
            mask = mask.expand(len(edges), -1, -1, -1).masked_fill(edges, torch.finfo(mask.dtype).min)
        return args, kwargs | {"attention_mask": mask}

    with ExitStack() as hooks:
        for index in indices(layers, len(stack), "layer"):
            hooks.enter_context(stack[index].register_forward_pre_hook(cut, with_kwargs=True))
        yield


def _from(rows: Tensor, positions: Tensor) -> Tensor:
    """rows [B, T] at `positions`, [B, 1, positions, 1]; what lies beyond T is like the last."""
    return rows[:, positions.clamp(max=rows.shape[1] - 1)][:, None, :, None]


def _to(columns: Tensor, length: int) -> Tensor:
    """columns [B, T] as the first of `length` keys, [B, 1, 1, length]."""
    return nn.functional.pad(columns, (0, length - columns.shape[1]))[:, None, None]


@contextmanager
def drop_heads(model: nn.Module, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Silence (layer, head) pairs: what they would add to the residual stream is 0.

    Michel et al. 2019, arXiv 1905.10650, section on ablating heads. ValueError as `attention.record`'s.
    """
    stack = attention_stack(model)
    layers = indices([layer for layer, _ in heads], len(stack), "layer")
    indices([head for _, head in heads], stack[0].config.num_attention_heads, "head")  # for its ValueError

    def silence(layer: int):
        mine = [head for where, head in heads if where % len(stack) == layer]
        width = stack[layer].head_dim

        def hook(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            parts = args[0].unflatten(-1, (-1, width)).clone()
            parts[..., mine, :] = 0
            return (parts.flatten(-2),)

        return hook

    with ExitStack() as hooks:
        for layer in layers:
            attention = stack[layer]
            end = attention.o_proj if hasattr(attention, "o_proj") else attention.out_proj
            hooks.enter_context(end.register_forward_pre_hook(silence(layer)))
        yield


def blanked(features: Tensor, patches: Tensor, mean: Tensor) -> Tensor:
    """Patch features [B, N, D_v] with those in `patches` (bool [B, N]) replaced by `mean` [D_v].

    why the mean and not 0: a feature that no picture has would be an intervention of another kind (mean
    ablation of visual tokens, Neo et al. 2024, arXiv 2410.07149, section on localization).
    """
    return torch.where(patches[..., None], mean.to(features.dtype), features)


@torch.no_grad()
def mean_feature(model: MiniLlava, images: Sequence[Picture], batch_size: int = 64) -> Tensor:
    """The mean patch feature of some pictures, [D_v]: what a patch is when nothing is known of it.

    Raises ValueError for no pictures.
    """
    if not images:
        raise ValueError("The mean of no pictures: give one or more.")
    size, total = model.config.vision_config.image_size, 0
    for start in range(0, len(images), batch_size):
        shown = images[start : start + batch_size]
        batch = [preprocess(open_image(image), size, model.aspect) for image in shown]
        total = total + model.encode_images(torch.stack(batch).to(model.device)).sum(0)
    return total.mean(0) / len(images)


@torch.no_grad()
def perturbation(
    said: Passage, heat: np.ndarray, mean: Tensor, steps: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the answer as patches go and come in the order of `heat`: two curves [steps + 1].

    Deletion blanks the strongest patches first, from none to all; insertion begins with none and brings the
    strongest first (RISE, Petsiuk et al. 2018, arXiv 1806.07421, section on causal metrics; patches in
    place of pixels). The means of the curves are the areas under them: low is good for deletion, high for
    insertion.

    Args:
        heat: [grid, grid].
        mean: what a blanked patch becomes, `mean_feature`.
    """
    order = np.argsort(-heat.reshape(-1), kind="stable")
    rank = np.empty(order.size, int)
    rank[order] = np.arange(order.size)
    counts = np.linspace(0, order.size, steps + 1).round()
    first = torch.from_numpy(rank < counts[:, None]).to(said.features.device)  # [steps + 1, N]
    curves = []
    for gone in (first, ~first):
        features = blanked(said.features.expand(len(gone), -1, -1), gone, mean)
        logits = said.model.language_model(inputs_embeds=said.embeds(features), use_cache=False).logits
        chances = logits[:, said.rows].float().log_softmax(-1)  # [steps + 1, n, V]
        spoken = torch.tensor(said.answer_ids, device=chances.device)[None, :, None]
        chances = chances.gather(2, spoken.expand(len(gone), -1, -1)).sum((1, 2)).exp()
        curves.append(chances.cpu().numpy())
    return curves[0], curves[1]
