"""Does a map point at the right thing? Scores of attention maps against true boxes, beside chance.

Maps are any attention over patches, [..., grid, grid], scale free; a `cover` [grid, grid] is the
share of each patch inside a true box (`images.PatchGeometry.cells`). L layers, H heads, n examples.

Chance is not the box's area: attention likes objects, so even an untrained head's strongest patch
falls on *some* object, the right one as often as not. Read every score beside its baselines.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


def truth(cover: np.ndarray) -> np.ndarray:
    """The object's patches, bool [grid, grid]: at least half covered, or else the most covered.

    Raises:
        ValueError: the box covers nothing of the picture.
    """
    if not cover.max() > 0:
        raise ValueError("The box covers no patch of the picture; give it in the picture's pixels.")
    return cover >= min(0.5, cover.max())


def pointing(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Pointing game (Zhang et al. 2016, arXiv 1608.00507): 1 if the strongest patch is inside."""
    strongest = maps.reshape(*maps.shape[:-2], -1).argmax(-1)
    return truth(cover).reshape(-1)[strongest].astype(float)


def mass_in_box(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Relevance mass accuracy (CLEVR-XAI, Arras et al. 2022): the share of the map inside the box.

    A uniform map scores the box's share of the area. A map of zeros scores 0.
    """
    total = maps.sum((-2, -1))
    inside = (maps * cover).sum((-2, -1))
    return inside / np.where(total > 0, total, 1)


def rank_accuracy(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Relevance rank accuracy (CLEVR-XAI): the object's share of the k strongest patches.

    k is the number of the object's patches.
    """
    inside = truth(cover).reshape(-1)
    order = np.argsort(-maps.reshape(*maps.shape[:-2], -1), axis=-1, kind="stable")
    return inside[order[..., : inside.sum()]].mean(-1)


MEASURES = {"pointing": pointing, "mass": mass_in_box, "rank": rank_accuracy}


@dataclass(frozen=True)
class Grounding:
    """Scores of n examples on one measure.

    Attributes:
        heads: of each head, [n, L, H].
        mean_map: of the map averaged over all layers and heads, [n].
        other: of the same heads against the picture's other objects, their mean, [n, L, H]; NaN
            where there is none.
        center: of a map that points at the picture's center whatever is asked, [n].
        area: the object's share of all patches, [n].
    """

    heads: np.ndarray
    mean_map: np.ndarray
    other: np.ndarray
    center: np.ndarray
    area: np.ndarray

    @property
    def grid(self) -> np.ndarray:
        """Mean score of every head, [L, H]."""
        return self.heads.mean(0)

    @property
    def best_head(self) -> tuple[int, int]:
        """(layer, head) with the highest mean, as positions in `grid`; that mean is inflated."""
        return _argmax(self.grid)

    def summary(self) -> dict[str, float]:
        """Means to print side by side: best_head, mean_map, other_object, center, area.

        why halves: the best of L·H heads wins partly by luck on the examples that chose it. So each
        half of the examples is scored by the head that the other half chooses.

        Raises:
            ValueError: fewer than two examples, which have no halves.
        """
        if len(self.heads) < 2:
            raise ValueError(
                f"Choosing a head on one half and scoring it on the other needs two examples or "
                f"more, not {len(self.heads)}."
            )
        best, other = np.empty(len(self.heads)), np.empty(len(self.heads))
        for half in (slice(0, None, 2), slice(1, None, 2)):
            layer, head = _argmax(np.delete(self.heads, half, axis=0).mean(0))
            best[half] = self.heads[half, layer, head]
            other[half] = self.other[half, layer, head]
        known = other[~np.isnan(other)]
        return {
            "best_head": float(best.mean()),
            "mean_map": float(self.mean_map.mean()),
            "other_object": float(known.mean()) if known.size else float("nan"),
            "center": float(self.center.mean()),
            "area": float(self.area.mean()),
        }


def measure(
    examples: Iterable[tuple[np.ndarray, np.ndarray, Sequence[np.ndarray]]],
) -> dict[str, Grounding]:
    """Score a set of examples on "pointing", "mass" and "rank".

    Args:
        examples: (maps [L, H, grid, grid], cover of the true box, covers of the other objects).

    Raises:
        ValueError: there is no example, or a box lies outside its picture.
    """
    examples = list(examples)
    if not examples:
        raise ValueError("There is nothing to measure: the set of examples is empty.")
    return {name: _grounding(examples, score) for name, score in MEASURES.items()}


def _grounding(examples: list, score) -> Grounding:
    nothing = np.full(examples[0][0].shape[:2], np.nan)
    return Grounding(
        heads=np.stack([score(maps, cover) for maps, cover, _ in examples]),
        mean_map=np.array([score(maps.mean((0, 1)), cover) for maps, cover, _ in examples]),
        other=np.stack([
            np.mean([score(maps, cover) for cover in others], axis=0) if len(others) else nothing
            for maps, _, others in examples
        ]),
        center=np.array([score(_center_map(len(cover)), cover) for _, cover, _ in examples]),
        area=np.array([truth(cover).mean() for _, cover, _ in examples]),
    )


def _center_map(grid: int) -> np.ndarray:
    """A round hill in the middle, [grid, grid], as wide as a quarter of the picture."""
    distance = np.arange(grid) - (grid - 1) / 2
    return np.exp(-(distance[:, None] ** 2 + distance**2) / (2 * (grid / 4) ** 2))


def _argmax(grid: np.ndarray) -> tuple[int, int]:
    layer, head = np.unravel_index(np.argmax(grid), grid.shape)
    return int(layer), int(head)
