"""Pixel values against the recorded outputs of the original and today's CLIP processor."""

import gzip
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from minillava.images import CLIP_MEAN, CLIP_STD, PatchGeometry, open_image, preprocess

GOLDEN = Path(__file__).parent / "golden"
with gzip.open(GOLDEN / "images.jsonl.gz", "rt", encoding="utf-8") as lines:
    ROWS = [json.loads(line) for line in lines]
RESULTS = [
    pytest.param(GOLDEN / row["file"], *key.split("/"), result, id=f"{Path(row['file']).stem}-{key}")
    for row in ROWS
    for key, result in row["results"].items()
]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "golden"
ELSEWHERE = Path(os.environ.get("MINILLAVA_GOLDEN", SHARED))
"""Where the vectors are that repeat other people's pictures, and so are not part of this repository."""

MEAN, STD = (np.float32(values).reshape(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))


def normalize(codes: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> what CLIP's processor makes of it, float32 [3, H, W]."""
    return ((codes.transpose(2, 0, 1) * (1 / 255)).astype(np.float32) - MEAN) / STD


def by_transformers(path: Path | Image.Image, size: int, aspect: str) -> np.ndarray:
    """The same picture by transformers' PIL-backed CLIP processor, padded beforehand."""
    image = open_image(path)
    if aspect == "pad":
        edge = max(image.size)
        square = Image.new("RGB", (edge, edge), (122, 116, 104))
        square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
        image = square
    crop_size = {"height": size, "width": size}
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=crop_size)
    return processor(image, return_tensors="np")["pixel_values"][0]


@pytest.mark.parametrize("path, aspect, size, result", RESULTS)
def test_same_as_the_original(path, aspect, size, result):
    size = int(size)
    if path.name == "truncated.jpg":
        assert result["raises"]["type"] == "OSError"
        with pytest.raises(ValueError, match="truncated.jpg is truncated or damaged"):
            preprocess(path, size, aspect)
        return
    pixel_values = preprocess(path, size, aspect).numpy()
    np.testing.assert_array_equal(pixel_values, by_transformers(path, size, aspect))
    if result["quirk"]:  # 1 or 3 rows: the original takes the rows for channels
        return
    if size == 96:
        with np.load(GOLDEN / "images_96.npz") as arrays:
            codes = arrays[result["npz_key"]]
        if path.name == "checkerboard.png":  # Pillow 13 rounds one step differently from 10
            np.testing.assert_allclose(pixel_values, normalize(codes), atol=0.02)
            return
        np.testing.assert_array_equal(pixel_values, normalize(codes))
    else:
        codes = np.rint((pixel_values * STD + MEAN) * 255).astype(np.uint8).transpose(1, 2, 0)
        assert hashlib.sha256(codes.tobytes()).hexdigest() == result["sha256"]
    for channel, row, column, value in result["probes"]:
        assert pixel_values[channel, row, column] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("size", [96, 336])
@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_a_photograph_is_as_the_original_sees_it(aspect, size):
    """`waterview.jpg` of the original's examples, 1000 x 667, against its own array."""
    if not (ELSEWHERE / "images_expected.npz").is_file():
        pytest.skip("the photograph is not here; set MINILLAVA_GOLDEN to the folder of images.jsonl")
    lines = (ELSEWHERE / "images.jsonl").read_text(encoding="utf-8").splitlines()
    (row,) = [row for row in map(json.loads, lines) if row["file"].endswith("waterview.jpg")]
    with np.load(ELSEWHERE / "images_expected.npz") as arrays:
        codes = arrays[row["results"][f"{aspect}/{size}"]["npz_key"]]
    found = preprocess(ELSEWHERE / row["file"], size, aspect).numpy()
    np.testing.assert_array_equal(found, normalize(codes))


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize(
    "row", [row for row in ROWS if "truncated" not in row["file"]], ids=lambda r: r["id"]
)
def test_transformers_llava_processor_gives_the_same(row, aspect):
    """The class that an exported folder names, `do_pad` as there for "pad" and off for "square"."""
    if any(result["quirk"] for key, result in row["results"].items() if key.startswith(aspect)):
        pytest.skip("1 or 3 rows are channels to it")
    edge = {"height": 48, "width": 48}
    processor = LlavaImageProcessorPil(size={"shortest_edge": 48}, crop_size=edge, do_pad=aspect == "pad")
    picture = open_image(GOLDEN / row["file"])
    found = processor(picture, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(preprocess(picture, 48, aspect).numpy(), found)


def patches(picture: Image.Image, aspect: str) -> np.ndarray:
    """Mean of the red channel of each patch of transformers' own pixels, [24, 24]."""
    return by_transformers(picture, 336, aspect)[0].reshape(24, 14, 24, 14).mean(axis=(1, 3))


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("size", [(1000, 667), (380, 570), (336, 337), (90, 400), (701, 350)])
def test_a_patch_shows_its_box_of_the_picture(size, aspect):
    """Paint the box of a patch white: in transformers' own pixels that patch lights up, no other."""
    geometry = PatchGeometry(*size, 336, 14, aspect)
    dark = Image.new("RGB", size)
    boxes = {(row, col): geometry.box(row, col) for row in range(24) for col in range(24)}
    inside = {
        place: box
        for place, box in boxes.items()
        if min(box) >= 0 and box[2] <= size[0] and box[3] <= size[1]
    }
    for place in list(inside)[:: max(1, len(inside) // 6)]:
        painted = dark.copy()
        painted.paste((255, 255, 255), tuple(map(round, inside[place])))
        light = patches(painted, aspect) - patches(dark, aspect)
        assert np.unravel_index(light.argmax(), light.shape) == place
        assert light[place] > 0.6 * light.sum()
