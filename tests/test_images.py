import io
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from minillava import images
from minillava.images import CLIP_MEAN, CLIP_STD, PADDING, PatchGeometry, open_image, preprocess


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def file_of(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def denormalize(pixel_values: torch.Tensor) -> np.ndarray:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return ((pixel_values * std + mean) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)


def test_no_resize_keeps_every_pixel():
    image = noise(96, 96)
    for aspect in ("pad", "square"):
        pixel_values = preprocess(image, 96, aspect)
        assert pixel_values.shape == (3, 96, 96) and pixel_values.dtype == torch.float32
        np.testing.assert_array_equal(denormalize(pixel_values), np.asarray(image))


def test_pad_centers_the_picture_on_the_mean_color():
    image = noise(96, 61)
    pixels = denormalize(preprocess(image, 96, "pad"))
    np.testing.assert_array_equal(pixels[17 : 17 + 61], np.asarray(image))  # 35 // 2 rows above
    assert (pixels[:17] == PADDING).all() and (pixels[78:] == PADDING).all()
    assert preprocess(image, 96, "pad")[:, 0].abs().max() < 0.02  # the mean normalizes to about 0
    portrait = image.transpose(Image.Transpose.TRANSPOSE)
    turned = denormalize(preprocess(portrait, 96, "pad"))
    np.testing.assert_array_equal(turned, pixels.transpose(1, 0, 2))


def test_square_cuts_out_the_center():
    image = noise(96, 131)
    pixels = denormalize(preprocess(image, 96, "square"))
    np.testing.assert_array_equal(pixels, np.asarray(image)[17 : 17 + 96])


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("width, height", [(1, 1), (50, 1), (1, 50), (40, 3), (3, 40), (2, 3)])
def test_pictures_of_a_few_rows_keep_their_colors(width, height, aspect):
    red = Image.new("RGB", (width, height), (255, 0, 0))
    pixels = denormalize(preprocess(red, 48, aspect))
    reddest = pixels.reshape(-1, 3).astype(int)[pixels[:, :, 0].argmax()]
    assert reddest[0] > reddest[1] + 60 and reddest[0] > reddest[2] + 60
    if aspect == "square":
        assert (pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_turning_the_picture_turns_the_pixels(aspect):
    image = noise(8, 6).resize((40, 30), Image.Resampling.BILINEAR)
    upright = denormalize(preprocess(image, 60, aspect)).astype(int)
    turned = preprocess(image.transpose(Image.Transpose.TRANSPOSE), 60, aspect)
    difference = np.abs(upright.transpose(1, 0, 2) - denormalize(turned))
    assert difference.max() <= 2  # Pillow rounds after the horizontal pass


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("width, height", [(300, 7), (7, 300)])
def test_very_long_pictures_need_little_memory(monkeypatch, width, height, aspect):
    rows = np.linspace(0, 255, height)[:, None, None]
    columns = np.linspace(0, 255, width)[None, :, None]
    image = Image.fromarray(((rows + columns) / 2 * np.ones(3)).astype(np.uint8))
    exact = denormalize(preprocess(image, 24, aspect)).astype(int)
    monkeypatch.setattr(images, "MAX_PIXELS", 200 * 200 if aspect == "pad" else 2_500)
    built, resize = [], Image.Image.resize

    def recorded(self, size, *args, **kwargs):
        built.extend([size[0] * size[1], self.width * self.height])
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    frugal = denormalize(preprocess(image, 24, aspect)).astype(int)
    assert max(built) <= images.MAX_PIXELS
    assert np.abs(exact - frugal).max() <= (24 if aspect == "pad" else 2)
    assert np.abs(exact - frugal).mean() < 1


def test_a_picture_20000_pixels_wide_works():
    strip = Image.new("RGB", (20_000, 2), (0, 255, 0))
    assert tuple(denormalize(preprocess(strip, 24, "square"))[12, 12]) == (0, 255, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    image = noise(9, 5).convert(mode)
    rgb = open_image(image)
    assert rgb.mode == "RGB" and rgb.size == (9, 5)
    assert preprocess(image, 24).shape == (3, 24, 24)
    assert image.mode == mode


def test_16_bit_gray_is_clipped_and_alpha_dropped():
    gray = Image.fromarray(np.array([[0, 100, 255, 40_000]], dtype=np.uint16))
    assert np.asarray(open_image(file_of(gray)))[0, :, 0].tolist() == [0, 100, 255, 255]
    hidden = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert open_image(file_of(hidden)).getpixel((0, 0)) == (10, 20, 30)


def test_a_transparent_color_is_not_painted_over():
    image = Image.new("RGB", (4, 4), (10, 20, 30))
    opened = open_image(file_of(image, transparency=(10, 20, 30)))
    assert "transparency" not in opened.info
    given = Image.open(io.BytesIO(file_of(image, transparency=(10, 20, 30))))
    assert "transparency" not in open_image(given).info
    assert "transparency" in given.info  # the caller's picture stays as it is
    assert tuple(denormalize(preprocess(given, 4))[0, 0]) == (10, 20, 30)


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "phone.jpg").write_bytes(file_of(noise(16, 8), "JPEG", exif=exif))
    assert open_image(tmp_path / "phone.jpg").size == (16, 8)


def test_sources_are_alike(tmp_path):
    image = noise(20, 10)
    path = tmp_path / "a.png"
    path.write_bytes(file_of(image))
    for source in (path, str(path), path.read_bytes(), Image.open(path), image):
        np.testing.assert_array_equal(np.asarray(open_image(source)), np.asarray(image))
    path.unlink()  # nothing holds the file open


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_files_are_named(tmp_path, format):
    path = tmp_path / f"half.{format.lower()}"
    content = file_of(noise(64, 64), format)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"half.{format.lower()}"):
        open_image(path)
    with pytest.raises(ValueError, match=f"half.{format.lower()}|The picture is truncated"):
        preprocess(path, 24)


def test_what_pillow_cannot_convert_or_decode_is_named(monkeypatch):
    with pytest.raises(ValueError, match="mode La does not convert to RGB"):
        open_image(Image.new("La", (5, 3)))

    def unheard_of(*_):
        raise NotImplementedError("Unknown pixel format flags 131")

    for place in ("open", "Image.convert"):
        with monkeypatch.context() as broken:
            broken.setattr(f"PIL.Image.{place}", unheard_of)
            with pytest.raises(ValueError, match="a.dds .*flags 131"):
                open_image(file_of(noise(4, 4)), "a.dds")


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match="notes.jpg is not a picture"):
        open_image(tmp_path / "notes.jpg")
    with pytest.raises(FileNotFoundError, match="no picture file at .*gone.jpg"):
        open_image(tmp_path / "gone.jpg")
    with pytest.raises(FileNotFoundError, match="no picture file"):
        open_image(tmp_path)
    with pytest.raises(ValueError, match="record 7 is not a picture"):
        open_image(b"", name="record 7")
    with pytest.raises(TypeError, match="not NoneType"):
        open_image(None)


def test_decompression_bombs_are_refused_before_decoding(tmp_path, monkeypatch):
    header = file_of(Image.new("1", (1, 1)))
    size = (30_000).to_bytes(4, "big")
    ihdr = b"IHDR" + size + size + header[24:29]
    bomb = header[:12] + ihdr + zlib.crc32(ihdr).to_bytes(4, "big") + header[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(ValueError, match="bomb.png is too large: .*pixels"):
        open_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # Pillow's own guard switched off
    with pytest.raises(ValueError, match="bomb.png has 30000 x 30000 pixels"):
        open_image(tmp_path / "bomb.png")


def test_wrong_aspects_and_sizes_are_refused():
    with pytest.raises(ValueError, match="choose 'pad' or 'square'"):
        preprocess(noise(4, 4), 24, "stretch")
    with pytest.raises(ValueError, match="choose 'pad' or 'square'"):
        PatchGeometry(4, 4, 96, 12, "stretch")
    with pytest.raises(ValueError, match="at least 1"):
        preprocess(noise(4, 4), 0)
    with pytest.raises(ValueError, match="no whole number of 14-pixel patches"):
        PatchGeometry(4, 4, 96, 14)
    with pytest.raises(ValueError, match="at least 1"):
        PatchGeometry(0, 4, 96, 12)


SHAPES = [(96, 96), (200, 100), (100, 200), (33, 101), (640, 427), (5, 3), (97, 96)]


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("width, height", SHAPES)
def test_boxes_and_cells_are_inverse(width, height, aspect):
    geometry = PatchGeometry(width, height, 96, 12, aspect)
    for row, col in ((0, 0), (2, 5), (7, 7)):
        cells = geometry.cells(geometry.box(row, col))
        expected = np.zeros((8, 8))
        expected[row, col] = 1
        np.testing.assert_allclose(cells, expected, atol=1e-9)
    everything = geometry.cells((0, 0, width, height))
    if aspect == "square":
        np.testing.assert_allclose(everything, 1)
    else:
        share = min(width, height) / max(width, height)
        assert everything.sum() == pytest.approx(64 * share)


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("width, height", SHAPES)
def test_a_patch_shows_its_box(width, height, aspect):
    """Paint what `box` names, preprocess, and find the paint in that patch and nowhere else."""
    zoom = 1 + 800 // max(width, height)  # large, so that resizing blurs little
    width, height = zoom * width, zoom * height
    geometry = PatchGeometry(width, height, 96, 12, aspect)
    row, col = 3, 4
    x1, y1, x2, y2 = (round(v) for v in geometry.box(row, col))
    image = Image.new("RGB", (width, height))
    image.paste((255, 255, 255), (max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)))
    seen = denormalize(preprocess(image, 96, aspect))[:, :, 0] > 128
    patch = np.zeros((96, 96), bool)
    patch[row * 12 : row * 12 + 12, col * 12 : col * 12 + 12] = True
    assert (seen & ~patch).sum() <= 24  # at most one line of rounding
    inside = geometry.cells((0, 0, width, height))[row, col]
    assert (seen & patch).sum() >= 144 * inside - 24
    brightness = geometry.cells((x1, y1, x2, y2))
    assert brightness.argmax() == row * 8 + col


def test_patches_of_a_padded_landscape_lie_where_they_should():
    geometry = PatchGeometry(200, 100, 96, 12, "pad")  # 50 rows of padding above, 25 pixels a patch
    assert geometry.box(0, 0) == pytest.approx((0, -50, 25, -25))
    assert geometry.box(2, 7) == pytest.approx((175, 0, 200, 25))
    np.testing.assert_allclose(geometry.cells((175, 0, 187.5, 25))[2, 7], 0.5)
    cut = PatchGeometry(200, 100, 96, 12, "square")  # the middle 100 columns, 12.5 pixels a patch
    assert cut.box(0, 0) == pytest.approx((50, 0, 62.5, 12.5))
    assert cut.cells((0, 0, 50, 100)).sum() == 0


@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("width, height", SHAPES)
def test_a_heatmap_pixel_has_the_value_of_its_patch(width, height, aspect):
    geometry = PatchGeometry(width, height, 96, 12, aspect)
    values = np.arange(64.0).reshape(8, 8)
    heat = geometry.heatmap(values)
    assert heat.shape == (height, width)
    for y, x in ((0, 0), (height // 2, width // 2), (height - 1, width - 1), (height // 3, 0)):
        covered = geometry.cells((x, y, x + 1, y + 1))
        if np.isnan(heat[y, x]):
            u, v = geometry.placement.to_input((x + 0.5, y + 0.5))
            assert aspect == "square" and not (0 <= u < 96 and 0 <= v < 96)
        else:
            assert covered[divmod(int(heat[y, x]), 8)] > 0
    if aspect == "pad":
        assert not np.isnan(heat).any()
    else:
        assert np.isnan(heat).mean() == pytest.approx(
            1 - min(width, height) / max(width, height), abs=3 / min(width, height)
        )
        assert not np.isnan(geometry.heatmap(values, outside=0)).any()


def test_geometry_errors_say_what_was_expected():
    geometry = PatchGeometry(100, 50, 96, 12)
    with pytest.raises(IndexError, match=r"\(8, 0\) in a 8 x 8 grid"):
        geometry.box(8, 0)
    with pytest.raises(ValueError, match="ends before it starts"):
        geometry.cells((10, 10, 5, 20))
    with pytest.raises(ValueError, match=r"\(8, 8\), not \(64,\)"):
        geometry.heatmap(np.zeros(64))


def test_preprocess_is_quick_without_resizing():
    image = noise(96, 96)
    preprocess(image, 96)
    start = time.process_time()
    for _ in range(50):
        preprocess(image, 96)
    assert (time.process_time() - start) / 50 < 2e-3  # about 0.15 ms; room for a busy machine
