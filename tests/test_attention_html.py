"""The page holds the maps it was given, loads nothing, and cannot be broken by what was asked."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from minillava.attention import AnswerMaps, TokenMaps, answer_maps
from minillava.attention_html import View, page, views
from minillava.images import PatchGeometry
from minillava.passage import passage
from minillava.relevance import METHODS

QUESTION = "What color is the ball?"


@pytest.fixture
def found(make_model, picture):
    model = make_model()
    maps = answer_maps(model, picture, QUESTION, max_new_tokens=3, min_new_tokens=3)
    return maps, passage(model, picture, QUESTION, max_new_tokens=3, min_new_tokens=3)


def data(text):
    (packed,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(packed)


def unpacked(view, grid):
    steps = np.frombuffer(base64.b64decode(view["maps"]), np.uint8).reshape(-1, grid, grid)
    return steps / 255 * np.array([peak or 0 for peak in view["peaks"]])[:, None, None]


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "input", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_holds_every_map_of_every_word(found, picture):
    maps, _ = found
    shown = views(maps)
    content = data(page(picture, QUESTION, maps, shown))
    tokens = [*maps.prompt.tokens, *maps.answered.tokens]
    assert [token["text"] for token in content["tokens"]] == tokens
    parts = [token["part"] for token in content["tokens"]]
    assert parts == ["question"] * len(maps.prompt.tokens) + ["answer"] * 3
    names = [view["name"] for view in content["views"]]
    assert names[:4] == ["mean of all heads", "layer 0, mean", "layer 1, mean", "layer 0, head 0"]
    assert len(names) == 1 + 2 + 8  # a model of eight heads shows each
    every = np.concatenate([maps.prompt.maps, maps.answered.maps])
    for view, expected in zip(content["views"][:2], [every.mean((1, 2)), every[:, 0].mean(1)], strict=True):
        peaks = np.array(view["peaks"])
        assert np.abs(unpacked(view, 4) - expected).max() <= peaks.max() / 255
        assert peaks == pytest.approx(expected.max((1, 2)), rel=1e-3)
        assert view["masses"] == pytest.approx(expected.sum((1, 2)), rel=1e-3)


def test_padding_is_counted_apart_and_the_grid_lies_on_the_picture(found, picture):
    maps, _ = found
    content = data(page(picture, QUESTION, maps, views(maps)))
    assert content["size"] == [30, 20] and content["grid"] == 4
    assert content["cell"] == pytest.approx([0, -5, 7.5, 7.5])  # 30 x 20 is padded by five rows above
    # rows of patches reach from -5 by 7.5 pixels: each touches the picture
    assert content["views"][0]["padding"] == [0] * len(content["tokens"])

    tall = AnswerMaps(
        "x", TokenMaps(["x"], np.full((1, 1, 1, 4, 4), 1 / 32)), TokenMaps(["?"], np.zeros((1, 1, 1, 4, 4))),
        [0], [0], PatchGeometry(10, 40, 16, 4),
    )  # fmt: skip
    (mean,) = data(page(Image.new("RGB", (10, 40)), "?", tall, views(tall)))["views"]
    assert mean["masses"] == pytest.approx([0, 0.5]) and mean["padding"] == pytest.approx([0, 0.25])
    assert mean["peaks"] == pytest.approx([0, 1 / 32])


def test_methods_explain_the_answers_words_only(found, picture):
    maps, said = found
    content = data(page(picture, QUESTION, maps, views(maps, said)))
    methods = [view for view in content["views"] if view["name"].startswith("method: ")]
    assert [view["name"] for view in methods] == [f"method: {name}" for name in METHODS if name != "raw"]
    for view in methods:
        assert view["peaks"][:-3] == [None] * len(maps.prompt.tokens)
        assert all(peak > 0 for peak in view["peaks"][-3:])
    gradient = next(view for view in methods if view["name"] == "method: gradient")
    expected = METHODS["gradient"](said).maps
    assert np.abs(unpacked(gradient, 4)[-3:] - expected).max() <= expected.max() / 255
    assert {view["unit"] for view in content["views"]} == {
        "attention", "relevance", "probability", "times the attention of a general question",
    }  # fmt: skip


def test_the_page_needs_and_loads_nothing(found, picture):
    maps, _ = found
    text = page(picture, QUESTION, maps, views(maps))
    tags = Tags(text)
    assert not tags.open  # every element is closed
    assert not [t for t, a in tags.seen if t in ("link", "iframe", "img") or "src" in a or "href" in a]
    assert not re.findall(r"https?:|@import|url\(", text)
    (policy,) = [a["content"] for t, a in tags.seen if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "img-src data:" in policy
    assert text.isascii() or '<meta charset="utf-8">' in text
    viewport = [a for t, a in tags.seen if a.get("name") == "viewport"]
    assert viewport and "prefers-color-scheme: dark" in text
    pictures = [data(text)[name] for name in ("picture", "outlines")]
    assert all(one.startswith("data:image/png;base64,") for one in pictures)


def test_what_was_asked_cannot_break_the_page(found, picture):
    maps, _ = found
    nasty = "</script><script>alert(1)</script> & <b>"
    said = TokenMaps([nasty] * 3, maps.answered.maps)
    broken = AnswerMaps(nasty, said, maps.prompt, maps.layers, maps.heads, maps.geometry)
    text = page(picture, nasty, broken, views(maps)[:1])
    tags = Tags(text)
    assert not tags.open and [t for t, _ in tags.seen].count("script") == 2
    assert data(text)["tokens"][-1]["text"] == nasty
    assert "<title>Where it looked: &lt;/script&gt;" in text

    mark = "a %DATA% and a %TITLE%"
    text = page(picture, mark, replace(maps, prompt=TokenMaps([mark], maps.prompt.maps[:1])), [
        View("one", np.ones((4, 4, 4)))
    ])  # fmt: skip
    assert f"<title>Where it looked: {mark}</title>" in text
    assert data(text)["tokens"][0]["text"] == mark


def test_a_large_picture_is_made_smaller_and_its_pixels_stay_the_measure():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1500, 3), dtype=np.uint8))
    maps = AnswerMaps(
        "x", TokenMaps(["x"], np.ones((1, 1, 1, 2, 2))), TokenMaps([], np.ones((0, 1, 1, 2, 2))),
        [0], [0], PatchGeometry(1500, 900, 16, 8),
    )  # fmt: skip
    content = data(page(photo, "?", maps, views(maps)))
    assert content["size"] == [1500, 900]
    small = Image.open(io.BytesIO(base64.b64decode(content["picture"].split(",")[1])))
    assert small.size == (768, 461)


def test_the_pages_pictures_are_640_pixels_whatever_the_photos_are(found, picture):
    maps, _ = found
    assert "data.scale = 640 / Math.max(width, height);" in page(picture, QUESTION, maps, views(maps))


@pytest.mark.parametrize("layers, heads, names", [
    ([3], [2], ["layer 3, head 2"]),
    ([3], [0, 1], ["layer 3, mean", "layer 3, head 0", "layer 3, head 1"]),
    ([0, 3], [2], ["head 2, mean of layers", "layer 0, head 2", "layer 3, head 2"]),
])  # fmt: skip
def test_a_view_is_called_what_it_is(layers, heads, names):
    maps = TokenMaps(["x"], np.ones((1, len(layers), len(heads), 4, 4)))
    one = AnswerMaps("x", maps, maps, layers, heads, PatchGeometry(16, 16, 16, 4))
    assert [view.name for view in views(one)] == names


def test_models_of_many_heads_show_those_that_look_at_one_spot():
    rng = np.random.default_rng(0)
    maps = rng.random((3, 9, 8, 4, 4)) / 100
    maps[:, 4, 5, 1, 1] = 0.5
    found = AnswerMaps(
        "x", TokenMaps(["x"] * 3, maps), TokenMaps([], maps[:0]), list(range(9)), list(range(8)),
        PatchGeometry(16, 16, 16, 4),
    )  # fmt: skip
    names = [view.name for view in views(found)]
    assert len(names) <= 1 + 9 + 3 and "layer 4, head 5" in names


def test_a_view_without_a_map_for_each_word_is_refused(found, picture):
    maps, _ = found
    with pytest.raises(ValueError, match="'short' has 1 maps for"):
        page(picture, QUESTION, maps, [View("short", np.ones((1, 4, 4)))])
    with pytest.raises(ValueError, match="no view"):
        page(picture, QUESTION, maps, [])
