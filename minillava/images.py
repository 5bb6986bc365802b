"""Pictures: file -> RGB -> the square tensor CLIP sees, and the way back from patches to pixels.

Two ways to make a picture square (arXiv 2310.03744; llava/train/train.py of haotian-liu/LLaVA at
c121f04):

- "square" (stage 1): resize the shorter edge to `size`, then cut out the center.
- "pad" (stage 2 and chat): fill up to a square with CLIP's mean color, the smaller margin first,
  then resize.

The values are bit for bit those of the original (`Image.convert("RGB")`, `expand2square`,
`CLIPImageProcessor`), and of `transformers.CLIPImageProcessorPil`. Also as there: EXIF orientation
is ignored (a phone picture may lie on its side), alpha is dropped (hidden colors reappear), 16-bit
gray is clipped at 255. Ours differ on purpose where theirs are wrong:

- A picture of 1 or 3 rows is not mistaken for a channels-first array (the original fails or mixes
  up the colors; after padding this also concerns pictures of 2 x 3).
- A transparent color left in the file's header is not painted white (transformers 5).
- A picture longer than 13,377 pixels is made smaller before it is padded to a square, and one that would be
  larger than `MAX_PIXELS` once resized is sampled in its center alone: some values differ by 1 of 255, where
  the original would take gigabytes.
"""

import io
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""RGB statistics CLIP was trained with, for values in 0..1 (openai/clip-vit-large-patch14-336)."""

PADDING = tuple(int(255 * mean) for mean in CLIP_MEAN)
"""(122, 116, 104): the gray that normalizes to almost 0 (`expand2square` in llava/mm_utils.py)."""

MAX_PIXELS = 178_956_970
"""Largest picture we decode or build: Pillow's guard against decompression bombs, 537 MB of RGB."""

_CODES = np.arange(256, dtype=np.float64)[:, None] * (1 / 255)
_NORMALIZED = ((_CODES.astype(np.float32) - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)).T.copy()
"""[3, 256]: what each 8-bit value of each channel becomes."""

Box = tuple[float, ...]


def open_image(source: str | Path | bytes | Image.Image, name: str | None = None) -> Image.Image:
    """Read a picture as RGB from a path, the bytes of a file, or a PIL picture of any mode.

    `name` stands for the picture in error messages; the default is its path. Of an animation the
    first frame is taken. See the module's docstring for EXIF, alpha and 16 bits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture, a truncated or damaged one, or more than `MAX_PIXELS` pixels.
        TypeError: something else than a path, bytes or a PIL picture.
    """
    if not isinstance(source, str | Path | bytes | Image.Image):
        raise TypeError(f"A picture is a path, bytes or a PIL image, not {type(source).__name__}.")
    if name is None:
        name = str(source) if isinstance(source, str | Path) else "The picture"
    image = source if isinstance(source, Image.Image) else _open(source, name)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"{name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS}. "
            "Make it smaller first."
        )
    try:
        rgb = image.convert("RGB")  # a copy; this is where a file's pixels are decoded
    except (OSError, SyntaxError, ValueError, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"{name} is truncated or damaged, or its mode {image.mode} does not convert to RGB: {error}."
        ) from error
    rgb.info.pop("transparency", None)
    return rgb


def _open(source: str | Path | bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"There is no picture file at {name}.") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a picture in a format that Pillow can read.") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error} Make it smaller first.") from error
    except (OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{name} cannot be read: {error}.") from error


def preprocess(
    image: Image.Image | str | Path | bytes, size: int, aspect: str = "pad"
) -> torch.Tensor:
    """A picture of any shape -> the normalized pixel values CLIP sees.

    Args:
        image: anything `open_image` takes, with its errors.
        size: edge in pixels, 336 for LLaVA-1.5.
        aspect: "pad" or "square", see the module's docstring.

    Returns:
        float32 [3, size, size], channels RGB, about -1.8 ... 2.2.
    """
    pixels = np.asarray(_to_square(open_image(image), size, aspect))  # [size, size, 3] uint8
    # why a table: a channel has 256 possible values; the same float32 numbers, computed once
    return torch.from_numpy(np.stack([_NORMALIZED[c][pixels[:, :, c]] for c in range(3)]))


def _to_square(image: Image.Image, size: int, aspect: str) -> Image.Image:
    """RGB of any shape -> RGB of size x size."""
    place = Placement(image.width, image.height, size, aspect)
    if aspect == "pad" and image.width != image.height:
        edge = max(image.size)
        if edge**2 > MAX_PIXELS:  # a very long picture: shrink it before building the square
            factor = math.ceil(edge / math.isqrt(MAX_PIXELS))
            return _to_square(image.reduce(factor), size, aspect)
        square = Image.new("RGB", (edge, edge), PADDING)
        square.paste(image, place.margin)
        image = square
    (width, height), (left, top) = place.resized, place.crop
    if width * height > MAX_PIXELS:  # a very long picture: sample the center only
        # why not always: the box is float32 inside Pillow, which moves some values by 1 or 2 of 255
        box = place.to_picture((0, 0, size, size))
        return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True)
class Placement:
    """Where `preprocess` puts a picture in the square: input = (pixel + margin) / scale - crop.

    Boxes are (x1, y1, x2, y2), x to the right, y down, x2 and y2 exclusive: the whole picture is
    (0, 0, width, height). Pairs are (horizontal, vertical).

    Raises:
        ValueError: a size that is not positive, an unknown aspect.
    """

    width: int
    height: int
    size: int
    aspect: str = "pad"

    def __post_init__(self):
        if self.aspect not in ("pad", "square"):
            raise ValueError(f"aspect is {self.aspect!r}; choose 'pad' or 'square'.")
        if min(self.width, self.height, self.size) < 1:
            raise ValueError(
                f"A picture of {self.width} x {self.height} does not fit {self.size} pixels: "
                "all sizes must be at least 1."
            )

    @property
    def margin(self) -> tuple[int, int]:
        """Padding on the left and on top, in pixels of the picture."""
        if self.aspect == "square":
            return 0, 0
        edge = max(self.width, self.height)
        return (edge - self.width) // 2, (edge - self.height) // 2

    @property
    def resized(self) -> tuple[int, int]:
        """Width and height after resizing, the longer one rounded down, as in CLIP's processor."""
        if self.aspect == "pad":
            return self.size, self.size
        short = min(self.width, self.height)
        return int(self.size * self.width / short), int(self.size * self.height / short)

    @property
    def crop(self) -> tuple[int, int]:
        """What the center crop cuts off on the left and on top, after resizing."""
        width, height = self.resized
        return (width - self.size) // 2, (height - self.size) // 2

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the picture per pixel of the input."""
        if self.aspect == "pad":
            return (max(self.width, self.height) / self.size,) * 2
        width, height = self.resized
        return self.width / width, self.height / height

    def to_picture(self, box: Box) -> Box:
        """A box in pixels of the model's input -> in pixels of the original picture."""
        return tuple(
            (v + self.crop[i % 2]) * self.scale[i % 2] - self.margin[i % 2]
            for i, v in enumerate(box)
        )

    def to_input(self, box: Box) -> Box:
        """A box in pixels of the original picture -> in pixels of the model's input."""
        return tuple(
            (v + self.margin[i % 2]) / self.scale[i % 2] - self.crop[i % 2]
            for i, v in enumerate(box)
        )


@dataclass(frozen=True)
class PatchGeometry:
    """Patches of the model's input <-> pixels of the original picture, both ways.

    Args:
        width, height: of the original picture, in pixels.
        size: edge of the model's input in pixels.
        patch: edge of a patch; the grid has size / patch rows and columns, from the top left.
        aspect: "pad" or "square", as given to `preprocess`.

    Raises:
        ValueError: see `Placement`; an input that is no whole number of patches.
    """

    width: int
    height: int
    size: int
    patch: int
    aspect: str = "pad"

    def __post_init__(self):
        if self.patch < 1 or self.size % self.patch:
            raise ValueError(
                f"An input of {self.size} pixels is no whole number of {self.patch}-pixel patches."
            )
        _ = self.placement  # checks the rest

    @cached_property
    def placement(self) -> Placement:
        """How `preprocess` puts the picture into the square."""
        return Placement(self.width, self.height, self.size, self.aspect)

    @property
    def grid(self) -> int:
        """Patches per row and per column."""
        return self.size // self.patch

    def box(self, row: int, col: int) -> Box:
        """The pixels of the original picture that patch (row, col) shows.

        Not clipped: a patch of padding lies outside the picture, with coordinates below 0 or beyond
        its width or height.

        Raises:
            IndexError: no such patch.
        """
        if not (0 <= row < self.grid and 0 <= col < self.grid):
            raise IndexError(f"No patch ({row}, {col}) in a {self.grid} x {self.grid} grid.")
        x, y = col * self.patch, row * self.patch
        return self.placement.to_picture((x, y, x + self.patch, y + self.patch))

    def cells(self, box: Box) -> np.ndarray:
        """How much of each patch a box of picture pixels covers: float64 [grid, grid] in 0..1.

        The inverse of `box`: `cells(box(row, col))` is 1 at (row, col) and 0 elsewhere.

        Raises:
            ValueError: a box whose corners are swapped.
        """
        if box[2] < box[0] or box[3] < box[1]:
            raise ValueError(f"Box {tuple(box)} ends before it starts; expected x1, y1, x2, y2.")
        x1, y1, x2, y2 = (v / self.patch for v in self.placement.to_input(box))
        start = np.arange(self.grid)
        columns = np.clip(np.minimum(x2, start + 1) - np.maximum(x1, start), 0, 1)
        rows = np.clip(np.minimum(y2, start + 1) - np.maximum(y1, start), 0, 1)
        return np.outer(rows, columns)

    @property
    def inside(self) -> np.ndarray:
        """Patches that show something of the picture, bool [grid, grid]; all others are padding."""
        return self.cells((0, 0, self.width, self.height)) > 1e-9  # not 0: an edge is rounded

    def heatmap(self, values: np.ndarray, outside: float = math.nan) -> np.ndarray:
        """One value per patch, [grid, grid] -> one per picture pixel, float64 [height, width].

        Each pixel gets the value of the patch its center lies in. Pixels the model never saw (cut
        off by "square") get `outside`; the default NaN is transparent in matplotlib.

        Raises:
            ValueError: values of another shape.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (self.grid, self.grid):
            raise ValueError(
                f"Expected one value per patch, {(self.grid, self.grid)}, not {values.shape}."
            )
        x, y = self.placement.to_input((0.5, 0.5))  # the center of the first pixel
        x_scale, y_scale = self.placement.scale
        columns = np.floor((x + np.arange(self.width) / x_scale) / self.patch).astype(int)
        rows = np.floor((y + np.arange(self.height) / y_scale) / self.patch).astype(int)
        framed = np.pad(values, 1, constant_values=outside)  # a frame for what lies outside
        rows, columns = (np.clip(i, -1, self.grid) + 1 for i in (rows, columns))
        return framed[rows[:, None], columns[None, :]]
