"""How near a model's SVG code comes to the picture: it parses, names the right shapes, draws the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ImageChops

from minillava.toybox import svg
from minillava.toybox.domain import Box
from minillava.toybox.svg import Primitive

MATCH = 0.5
"""Boxes that overlap this much (IoU) can be the same shape, as in detection (PASCAL VOC) and RefCOCO."""


@dataclass(frozen=True)
class SketchScore:
    """`parses`: inside the subset; `f1`: `primitive_f1`; `iou`: `rendered_iou`; both 0-1, 0 if it fails."""

    parses: bool
    f1: float
    iou: float


def sketch_score(code: str, reference: str) -> SketchScore:
    """Scores of a code against the true one. Raises `svg.SvgError` if the true one does not parse."""
    expected = svg.parse(reference)
    try:
        found = svg.parse(code)
    except svg.SvgError:
        return SketchScore(False, 0.0, 0.0)
    return SketchScore(True, primitive_f1(found, expected), rendered_iou(found, expected))


def box_iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2), 0-1; 0 for two without an area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    union = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)) - both
    return both / union if union else 0.0


def primitive_f1(found: Sequence[Primitive], expected: Sequence[Primitive]) -> float:
    """F1, 0-1, of shapes: a match has the same tag and fill and boxes of at least MATCH IoU; 1 for none.

    Matches are taken best first, each shape at most once.
    """
    candidates = sorted(
        (
            (box_iou(a.extent, b.extent), i, j)
            for i, a in enumerate(found)
            for j, b in enumerate(expected)
            if (a.tag, a.fill) == (b.tag, b.fill)
        ),
        reverse=True,
    )
    used_found, used_expected = set(), set()
    for overlap, i, j in candidates:
        if overlap >= MATCH and i not in used_found and j not in used_expected:
            used_found.add(i)
            used_expected.add(j)
    total = len(found) + len(expected)
    return 2 * len(used_found) / total if total else 1.0


def rendered_iou(found: Sequence[Primitive], expected: Sequence[Primitive]) -> float:
    """Pixels drawn in the same color over pixels drawn by either, 0-1; 1 where neither draws anything."""
    one, other = svg.render(tuple(found)), svg.render(tuple(expected))
    union = sum(ImageChops.lighter(one, other).histogram()[1:])
    changed = sum(ImageChops.difference(one, other).histogram()[1:])
    return (union - changed) / union if union else 1.0
