"""Does a map point at the right thing? Scores of attention maps against true boxes, beside chance.

Maps are any attention over patches, [..., grid, grid], scale free; a `cover` [grid, grid] is the
share of each patch inside a true box (`images.PatchGeometry.cells`). L layers, H heads, n examples.

Chance is not the box's area: attention likes objects, so even an untrained head's strongest patch
falls on *some* object, the right one as often as not. Read every score beside its baselines.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.1, 0.9, 9)
"""Shares of a map's peak above which a patch counts as pointed at, for `overlap`."""


def truth(cover: np.ndarray) -> np.ndarray:
    """The object's patches, bool [grid, grid]: at least half covered, or else the most covered.

    Raises:
        ValueError: the box covers nothing of the picture.
    """
    if not cover.max() > 0:
        raise ValueError("The box covers no patch of the picture; give it in the picture's pixels.")
    return cover >= min(0.5, cover.max())


def pointing(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Pointing game (Zhang et al. 2016, arXiv 1608.00507): 1 if the strongest patch is inside.

    Of several that are equally strong, the share inside; a map of zeros points nowhere and scores 0.
    """
    flat = _flat(maps)
    peak = flat.max(-1, keepdims=True)
    strongest = (flat == peak) & (peak > 0)
    return (strongest & truth(cover).reshape(-1)).sum(-1) / strongest.sum(-1).clip(1)


def _flat(maps: np.ndarray) -> np.ndarray:
    """[..., grid, grid] -> [..., patches]. ValueError for maps with NaN, which have no strongest patch."""
    if np.isnan(maps).any():
        raise ValueError("A map has patches that are no numbers (NaN), and so no strongest one.")
    return maps.reshape(*maps.shape[:-2], -1)


def mass_in_box(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Relevance mass accuracy (CLEVR-XAI, Arras et al. 2022): the share of the map inside the box.

    A uniform map scores the box's share of the area. A map of zeros scores 0.
    """
    total = maps.sum((-2, -1))
    inside = (maps * cover).sum((-2, -1))
    return inside / np.where(total > 0, total, 1)


def concentration(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """How many times denser the map is in the box than over the picture: its mass by the box's area."""
    return mass_in_box(maps, cover) / cover.mean()


def rank_accuracy(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Relevance rank accuracy (CLEVR-XAI): the object's share of the k strongest patches.

    k is the number of the object's patches. Patches as strong as the k-th share the places that are left.
    """
    inside, flat = truth(cover).reshape(-1), _flat(maps)
    count = inside.sum()
    last = -np.partition(-flat, count - 1, axis=-1)[..., count - 1 : count]  # the k-th strongest
    above, level = flat > last, flat == last
    shared = (count - above.sum(-1)) / level.sum(-1)
    return ((above & inside).sum(-1) + shared * (level & inside).sum(-1)) / count


def overlap(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """IoU of the patches above each of THRESHOLDS of the map's peak with the object's, [..., 9].

    Which threshold is best is for other examples to say: `chosen_elsewhere` does.
    """
    inside = truth(cover)
    peak = maps.max((-2, -1), keepdims=True)
    lit = maps[..., None] >= THRESHOLDS * np.where(peak > 0, peak, 1)[..., None]  # [..., grid, grid, 9]
    both = (lit & inside[..., None]).sum((-3, -2))
    return both / (lit | inside[..., None]).sum((-3, -2))


def specificity(
    maps: np.ndarray, cover: np.ndarray, other_maps: np.ndarray, other_cover: np.ndarray
) -> np.ndarray:
    """1 if two questions about one picture each draw the map to their own object, else 0.

    `maps` are of the question about the object under `cover`, `other_maps` of that about the other. Each
    object must get a larger share when it is asked about than when the other is; so a map that ignores the
    question scores 0, however well it points, and noise scores 1/4.
    """
    more_here = mass_in_box(maps, cover) > mass_in_box(other_maps, cover)
    more_there = mass_in_box(other_maps, other_cover) > mass_in_box(maps, other_cover)
    return (more_here & more_there).astype(float)


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "pointing": pointing,
    "mass": mass_in_box,
    "mass/area": concentration,
    "rank": rank_accuracy,
    "iou": overlap,
}


def chosen_elsewhere(scores: np.ndarray, *along: np.ndarray) -> list[np.ndarray]:
    """Scores [n, ...] of the best candidate, [n]: each half of the examples by the choice of the other half.

    why halves: the best of many candidates (heads, rows, thresholds) wins partly by luck on the examples that
    chose it. Every array of `along` is read at the same choices. Candidates are all axes but the first.

    Raises:
        ValueError: fewer than two examples, which have no halves.
    """
    if len(scores) < 2:
        raise ValueError(
            f"Choosing a head on one half and scoring it on the other needs two examples or more, not "
            f"{len(scores)}."
        )
    flat = [array.reshape(len(scores), -1) for array in (scores, *along)]
    found = [np.empty(len(scores)) for _ in flat]
    for half in (slice(0, None, 2), slice(1, None, 2)):
        best = np.delete(flat[0], half, axis=0).mean(0).argmax()
        for array, values in zip(flat, found, strict=True):
            values[half] = array[half, best]
    return found


@dataclass(frozen=True)
class Grounding:
    """Scores of n examples on one measure; "iou" has a last axis more, its thresholds.

    Attributes:
        heads: of each head, [n, L, H], or of each row and head, [n, R, L, H].
        mean_map: of the map averaged over all layers and heads, [n], or of each row's, [n, R].
        other: like `heads`, against the picture's other objects, their mean; NaN where there is none.
        center: of a map that points at the picture's center whatever is asked, [n].
        area: of a map that is the same everywhere: the object's share of all patches, [n], for pointing.
    """

    heads: np.ndarray
    mean_map: np.ndarray
    other: np.ndarray
    center: np.ndarray
    area: np.ndarray

    @property
    def grid(self) -> np.ndarray:
        """Mean score of every head, [L, H] (or with more axes, as `heads`)."""
        return self.heads.mean(0)

    @property
    def best_head(self) -> tuple[int, ...]:
        """(layer, head) with the highest mean, as positions in `grid`; that mean is inflated."""
        return tuple(int(index) for index in np.unravel_index(np.argmax(self.grid), self.grid.shape))

    def scores(self) -> dict[str, np.ndarray]:
        """Scores example by example, [n] each: best_head, mean_map, other_object, center, area.

        Whatever was chosen (head, row, threshold) was chosen on the other half of the examples.
        """
        best, other = chosen_elsewhere(self.heads, self.other)
        return {
            "best_head": best,
            "mean_map": chosen_elsewhere(self.mean_map)[0],
            "other_object": other,
            "center": chosen_elsewhere(self.center)[0],
            "area": self.area,
        }

    def summary(self, only: np.ndarray | None = None) -> dict[str, float]:
        """Means of `scores` to print side by side, of the examples in the mask `only` [n], or of all.

        With `only`, right and wrong answers can be told apart by the same heads. A mean of nothing is NaN.

        Raises:
            ValueError: fewer than two examples, which have no halves.
        """
        scores = self.scores()
        if only is not None:
            scores = {name: values[only] for name, values in scores.items()}
        return {name: mean_known(values) for name, values in scores.items()}


def measure(
    examples: Iterable[tuple[np.ndarray, np.ndarray, Sequence[np.ndarray]]],
) -> dict[str, Grounding]:
    """Score a set of examples on every one of MEASURES.

    Args:
        examples: (maps [L, H, grid, grid] or [R, L, H, grid, grid], cover of the true box, covers of the
            other objects).

    Raises:
        ValueError: there is no example, or a box lies outside its picture.
    """
    examples = list(examples)
    if not examples:
        raise ValueError("There is nothing to measure: the set of examples is empty.")
    return {name: _grounding(examples, score) for name, score in MEASURES.items()}


def _grounding(examples: list, score) -> Grounding:
    heads = np.stack([score(maps, cover) for maps, cover, _ in examples])
    nothing = np.full(heads.shape[1:], np.nan)
    return Grounding(
        heads=heads,
        mean_map=np.array([score(maps.mean((-4, -3)), cover) for maps, cover, _ in examples]),
        other=np.stack(
            [
                np.mean([score(maps, cover) for cover in others], axis=0) if len(others) else nothing
                for maps, _, others in examples
            ]
        ),
        center=np.array([score(_center_map(len(cover)), cover) for _, cover, _ in examples]),
        area=np.array([_uniform(score, cover) for _, cover, _ in examples]),
    )


def _uniform(score, cover: np.ndarray) -> float:
    """What a map that is the same everywhere scores, pointing and ranking by lot."""
    if score in (pointing, rank_accuracy):
        return float(truth(cover).mean())
    return float(np.max(score(np.ones_like(cover), cover)))


def _center_map(grid: int) -> np.ndarray:
    """A round hill in the middle, [grid, grid], as wide as a quarter of the picture."""
    distance = np.arange(grid) - (grid - 1) / 2
    return np.exp(-(distance[:, None] ** 2 + distance**2) / (2 * (grid / 4) ** 2))


def mean_known(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN if nothing is known."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
