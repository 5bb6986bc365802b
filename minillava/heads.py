"""Finding the heads that point, without being told where anything is.

Kang et al. 2025 (arXiv 2503.06287, "Your Large Vision-Language Model Only Needs A Few Attention Heads For
Visual Grounding"): of the heads that look at the picture at all, those whose maps are the least scattered.

With boxes the best head can simply be chosen, on half of the examples (`grounding.chosen_elsewhere`). How
close the finder comes without them is the test of the finder.
"""

import numpy as np


def find_heads(maps: np.ndarray, count: int = 3, shortlist: int = 10) -> list[tuple[int, int]]:
    """(layer, head) of the heads that most often are among the least scattered, the most frequent first.

    In each example the `shortlist` heads of lowest spatial entropy get a vote, of those whose mean
    attention on the picture lies above the elbow of all heads'.

    Args:
        maps: attention on each patch as a share of the row, [n, L, H, grid, grid], one row per example: the
            row that predicts the answer in the paper.
        count: how many heads; 3 in the paper. There are fewer if fewer lie above the elbow.
    """
    mass = maps.sum((-2, -1)).mean(0)  # [L, H]
    looking = np.argwhere(mass >= elbow(mass.reshape(-1)))
    entropy = spatial_entropy(maps[:, looking[:, 0], looking[:, 1]])  # [n, heads that look]
    voted = np.argsort(entropy, axis=1, kind="stable")[:, :shortlist]
    votes = np.bincount(voted.reshape(-1), minlength=len(looking))
    best = np.lexsort((entropy.mean(0), -votes))[:count]  # of equal votes, the less scattered
    return [(int(layer), int(head)) for layer, head in looking[best]]


def elbow(values: np.ndarray) -> float:
    """The value at which the sorted curve bends most: farthest from the straight line between its ends.

    The paper asks for the point of maximum curvature; the distance to the chord finds it without derivatives
    (Satopaa et al. 2011, "Finding a kneedle in a haystack").
    """
    curve = np.sort(values)
    chord = np.linspace(curve[0], curve[-1], len(curve))
    return float(curve[np.argmax(np.abs(curve - chord))])


def spatial_entropy(maps: np.ndarray) -> np.ndarray:
    """Entropy, in nats, of the sizes of a map's spots: [..., grid, grid] -> [...]; one spot has 0.

    Spots are the connected parts, diagonals included, of the patches above the map's mean. A map without any,
    because all patches are equal, counts as one spot for each patch: nothing is more scattered.
    """
    lit = maps > maps.mean((-2, -1), keepdims=True)
    lit |= ~lit.any((-2, -1), keepdims=True)
    uniform = maps.max((-2, -1)) == maps.min((-2, -1))
    patches = lit.shape[-1] * lit.shape[-2]
    labels = connected(lit).reshape(-1, patches)
    own = labels + np.arange(len(labels))[:, None] * (patches + 1)  # each map counts in its own bins
    sizes = np.bincount(own.reshape(-1), minlength=len(labels) * (patches + 1))
    sizes = sizes.reshape(*maps.shape[:-2], patches + 1)[..., 1:]  # of spot 1, 2, ..., most of them 0
    share = sizes / sizes.sum(-1, keepdims=True)
    entropy = -np.where(share > 0, share * np.log(np.where(share > 0, share, 1)), 0).sum(-1)
    return np.where(uniform, np.log(patches), entropy)


def connected(lit: np.ndarray) -> np.ndarray:
    """Number of the spot each lit patch belongs to, 0 where it is dark: bool [..., grid, grid] -> int.

    Every patch begins as its own spot and takes the greatest number around it until nothing changes.
    """
    rows, columns = lit.shape[-2:]
    labels = lit * np.arange(1, rows * columns + 1).reshape(rows, columns)
    frame = [(0, 0)] * (lit.ndim - 2) + [(1, 1), (1, 1)]
    while True:
        padded = np.pad(labels, frame)
        around = [padded[..., i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
        spread = np.where(lit, np.max(around, axis=0), 0)
        if (spread == labels).all():
            return labels
        labels = spread
