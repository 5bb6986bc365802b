"""Paper and pens for `plots`: figures without pyplot, small PNGs, pages of pictures with notes.

Figures built without pyplot are nobody's current figure and stay open nowhere; a notebook draws the
last expression of a cell by itself.
"""

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure as MplFigure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.patches import Rectangle
from PIL import Image, ImageFont

Box = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in the picture's pixels."""

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, INK, MUTED = "#56B4E9", "#E69F00", "#222222", "#6B6B6B"
LINES = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, INK)
POINTS = 7.5  # size of the notes' font
HEAT, SCORE, SKETCH = "magma", "viridis", "#A8D8FF"

STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#BBBBBB",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a question may contain $
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


class Figure(MplFigure):
    """matplotlib's Figure; a notebook shows it as a small PNG, with or without pyplot."""

    def png(self) -> bytes:
        """A sharp and small PNG: the figure's pixels in a palette of 256 colors."""
        canvas = FigureCanvasAgg(self)
        canvas.draw()
        pixels = _paletted(np.asarray(canvas.buffer_rgba())[..., :3])
        file = io.BytesIO()
        pixels.save(file, "PNG", optimize=True)
        return file.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


def _paletted(pixels: np.ndarray, rounds: int = 4) -> Image.Image:
    """[height, width, 3] uint8 -> a picture of at most 256 colors, a third of the size of RGB.

    why not Pillow's alone: it shifts rare colors or tints pale grays, and here colors are the
    subject. A few rounds of k-means from its palette stay within what an eye can tell.
    """
    packed = pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    codes, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colors = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1).astype(np.float32)
    weights = np.sqrt(counts)  # large areas matter more, but not so much as to cost a small one
    start = Image.fromarray(colors[None].astype(np.uint8)).quantize(
        min(256, len(colors)), method=Image.Quantize.MAXCOVERAGE
    )
    palette = np.array(start.getpalette(), np.float32).reshape(-1, 3)
    for _ in range(rounds):
        nearest = _nearest(colors, palette)
        mass = np.bincount(nearest, weights, len(palette))
        sums = [np.bincount(nearest, weights * c, len(palette)) for c in colors.T]
        used = mass > 0
        palette[used] = (np.stack(sums, axis=1)[used] / mass[used, None]).astype(np.float32)
    nearest = _nearest(colors, palette).astype(np.uint8)
    image = Image.fromarray(nearest[places].reshape(pixels.shape[:2])).convert("P")
    image.putpalette(palette.round().astype(np.uint8).tobytes())
    return image


def _nearest(colors: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Index of the palette's nearest entry to each color."""
    parts = np.array_split(colors, len(colors) // 16_384 + 1)  # of a photo there are many
    return np.concatenate([((palette**2).sum(1) - 2 * p @ palette.T).argmin(1) for p in parts])


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in our style; the user's own settings of matplotlib stay as they were."""

    @wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def subplots(width: float, height: float, rows: int = 1, columns: int = 1, **grid):
    """A figure of `width` x `height` inches and its axes, [rows, columns]."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **grid)


Notes = list[tuple[str, str]]
"""Paragraphs below a picture: (text, color). Colored ones are verdicts, and bold."""


@dataclass(frozen=True)
class Cell:
    """One place of a page: panels side by side, notes below.

    A panel is a picture and the function (axes, picture) that draws it.
    """

    panels: list[tuple[object, Callable]]
    notes: Notes


def sheet(cells: Sequence[Cell], columns: int, width: float) -> Figure:
    """Cells of `width` inches in a grid, each row as high as its highest picture and notes."""
    columns = min(columns, len(cells))
    gap, line, seam = 0.16, 0.14, 0.05
    texts = [_wrap(cell.notes, width) for cell in cells]
    panel = [(width - seam * (len(cell.panels) - 1)) / len(cell.panels) for cell in cells]
    heights = [
        max(one * min(_aspect(image), 1.5) for image, _ in cell.panels)
        for one, cell in zip(panel, cells, strict=True)
    ]
    rows = [range(i, min(i + columns, len(cells))) for i in range(0, len(cells), columns)]
    pictures = [max(heights[i] for i in row) for row in rows]
    notes = [line * max(len(texts[i]) for i in row) for row in rows]
    wide = columns * (width + gap) + gap
    high = sum(pictures) + sum(notes) + (len(rows) + 1) * gap
    figure = Figure(figsize=(wide, high))
    top = high - gap / 2
    for row, picture, note in zip(rows, pictures, notes, strict=True):
        for column, i in enumerate(row):
            left = gap + column * (width + gap)
            for number, (image, draw) in enumerate(cells[i].panels):
                x = left + number * (panel[i] + seam)
                at = (x / wide, (top - picture) / high, panel[i] / wide, picture / high)
                draw(figure.add_axes(at, anchor="SW"), image)
            for number, (text, color) in enumerate(texts[i]):
                y = top - picture - 0.05 - line * number
                figure.text(
                    left / wide, y / high, text, fontsize=POINTS, color=color, va="top",
                    fontweight=_weight(color),
                )
        top -= picture + note + gap
    return figure


def _aspect(image) -> float:
    height, width = np.asarray(image).shape[:2]
    return height / width


def _wrap(paragraphs: Notes, width: float) -> Notes:
    """Each paragraph as lines of at most `width` inches, at most four."""
    return [(line, color) for text, color in paragraphs for line in _lines(text, color, width)]


def _lines(text: str, color: str, width: float) -> list[str]:
    """As many letters a line as fit, measured: their widths differ too much to count on an average."""
    font = _font(_weight(color))
    for letters in range(int(width * 26), 1, -1):
        lines = textwrap.wrap(text, letters, max_lines=4, placeholder=" …")
        if all(font.getlength(line) <= 0.98 * width * 720 for line in lines):
            break
    return lines


def _weight(color: str) -> str:
    return "normal" if color in (INK, MUTED) else "bold"


def text_width(text: str, weight: str = "normal") -> float:
    """Width in inches of a line of the notes' font."""
    return _font(weight).getlength(text) / 720


@cache
def _font(weight: str) -> ImageFont.FreeTypeFont:
    """The notes' font at ten times their size, to measure with."""
    path = findfont(FontProperties(family="DejaVu Sans", weight=weight))
    return ImageFont.truetype(path, 10 * POINTS)


def picture(axes: Axes, image, boxes: Sequence[Box] = ()) -> None:
    """A picture in a hairline frame."""
    axes.imshow(np.asarray(image))
    draw_boxes(axes, boxes)
    _frame(axes)


def overlay(axes: Axes, image, heat: np.ndarray, boxes: Sequence[Box], top: float) -> None:
    """Heat, the picture's outlines on it, and the boxes.

    why outlines: under a translucent map the picture's colors mix with the heat's, and neither can
    be read. So the heat's colors are the color bar's.
    """
    pixels = np.asarray(Image.fromarray(np.asarray(image)).convert("RGB"), float)
    height, width = pixels.shape[:2]
    axes.imshow(
        np.asarray(heat, float), cmap=HEAT, vmin=0, vmax=top, interpolation="nearest",
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
    )
    alpha = outlines(pixels)
    axes.imshow(np.ones_like(alpha), cmap=ListedColormap([SKETCH]), alpha=alpha)
    draw_boxes(axes, boxes)
    _frame(axes)


def outlines(pixels: np.ndarray) -> np.ndarray:
    """How visible the edges of a picture are, 0 to 0.9: [height, width, 3] in 0..255 -> [height, width]."""
    pixels = np.asarray(pixels, float)
    steps = np.pad(pixels, ((0, 1), (0, 1), (0, 0)), mode="edge")
    down, right = steps[1:, :-1] - pixels, steps[:-1, 1:] - pixels
    edges = np.hypot(down, right).max(-1)
    return np.clip((edges - 12) / 60, 0, 0.9)  # 12: below it are noise and shading


def draw_boxes(axes: Axes, boxes: Sequence[Box]) -> None:
    """Boxes in white on black, to be seen on any ground."""
    for x1, y1, x2, y2 in boxes:
        for color, width in (("black", 2.6), ("white", 1.2)):
            axes.add_patch(Rectangle(
                (x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, color=color, linewidth=width
            ))


def _frame(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="#CCCCCC", linewidth=0.6)


def color_bar(axes: Axes, mapped, **kwargs):
    """A color bar exactly as high as the axes' picture."""
    width = 0.14 / axes.get_position().width / axes.figure.get_figwidth()
    bar = axes.figure.colorbar(
        mapped, cax=axes.inset_axes((1.04, 0, max(width, 0.03), 1)), **kwargs
    )
    bar.outline.set_visible(False)
    return bar
