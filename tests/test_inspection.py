"""inspection.py: a sample shown whole, in a notebook, in a terminal, as a page."""

import json
import re

import pytest
from helpers import mistake, png, record

import minillava
from minillava.cli import main
from minillava.inspection import inspect, sample


@pytest.fixture
def shown(make_model):
    return lambda row, **options: inspect(row, make_model(), **options)


def marked(html: str) -> list[str]:
    """The tokens that a page marks as learned."""
    return re.findall(r'<span class="answer"[^>]*>([^<]*)</span>', html)


def test_a_notebook_shows_the_picture_the_prompt_and_what_is_learned(shown):
    found = shown(record("ball", png("red", (30, 20)), answer="red"), index=3)
    html = found._repr_html_()
    assert "".join(marked(html)) == " red&lt;/s&gt;"
    assert "record 3 (id &#x27;ball&#x27;)" in html
    assert html.count("<img ") == 1 and "30 × 20 pixels" in html and "data:image/png;base64," in html
    assert "&lt;image&gt; x 16" in html
    assert "between a curious user and" in re.sub(r"<[^>]*>", "", html)
    assert f"{len(found.encoded.input_ids)} positions, {found.encoded.n_supervised} supervised" in html
    assert "http" not in html and "<script" not in html
    assert found.page().startswith("<!doctype html>") and html in found.page()


def test_a_terminal_shows_the_same_without_the_picture(shown):
    text = str(shown(record("ball", png("red", (30, 20)), answer="red"), index=3))
    assert text.startswith("record 3 (id 'ball')\npicture 0: 30 x 20 pixels\n")
    assert "\033[1;32m" in text and "<image> x 16" in text


def test_several_pictures_and_none(shown):
    two = record(0, [png("red"), png("blue")])
    two["conversations"] = two["conversations"] * 2
    assert shown(two)._repr_html_().count("<img ") == 2
    assert "<img " not in shown(record(0))._repr_html_()


def test_pictures_are_small_and_the_same_every_time(shown):
    row = record(0, png("red", (2000, 1000)))
    assert shown(row)._repr_html_() == shown(row)._repr_html_()
    assert len(shown(row)._repr_html_()) < 40_000


def test_poor_samples_are_shown_with_what_is_wrong(shown):
    found = shown(record(0, answer=""))
    assert "problem: no_answer" in found._repr_html_() and "problem: no_answer" in str(found)
    assert not marked(found._repr_html_())
    cut = shown(record(0, answer="word " * 20), max_length=60)
    assert len(cut.encoded.input_ids) == 60 and "problem: truncated" in str(cut)


def test_a_picture_that_does_not_open_is_named(shown, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.png, picture 0 of record 2 \(id 'x'\)"):
        shown(record("x", "gone.png"), image_root=tmp_path, index=2)


@pytest.mark.parametrize("turns", [None, "Hello", ["Hello"], [{"from": "gpt", "value": "Hello"}] * 2])
def test_turns_that_are_none_are_named(shown, turns):
    with pytest.raises(ValueError, match=r"record 2 \(id 'x'\): "):
        shown({"id": "x", "conversations": turns}, index=2)
    with pytest.raises(ValueError, match=r"record 2 \(id 'x'\): A picture is"):
        shown(record("x", 5), index=2)


def test_stage_1_and_a_tokenizer_alone(tokenizer):
    found = sample(record(0, png(), answer="a red ball"), tokenizer, 4, "plain")
    assert found.encoded.input_ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 4
    assert "".join(marked(found._repr_html_())).endswith("ball⏎")


def test_it_stands_at_the_top():
    assert minillava.inspect is inspect


def test_what_the_audit_finds_is_shown_of_the_record(model_folder, records, tmp_path, capsys):
    rows = json.loads(records.read_text())[:2]
    del rows[1]["image"]
    records.write_text(json.dumps(rows))
    argv = ["inspect", "--model", model_folder, "--data", str(records)]
    assert main([*argv, "--index", "1"]) == 0
    assert "problem: pictures and placeholders differ: 0 pictures, but 1 turns" in capsys.readouterr().out
    assert "say which, with --index" in mistake(capsys, *argv, "--html", str(tmp_path / "a.html"))
    assert "leave --index out" in mistake(capsys, *argv, "--index", "0", "--json", str(tmp_path / "a.json"))
