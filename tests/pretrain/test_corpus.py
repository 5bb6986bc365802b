"""The text that the tokenizer is trained on: every domain's words whole, and no sign's characters joined."""

import re

import pytest

from minillava.pretrain import corpus
from minillava.pretrain.tokenizer import train_tokenizer
from minillava.toybox import domain
from minillava.toybox.creatures import BREEDS
from minillava.toybox.domain import LETTERS
from minillava.toybox.signs import CHARACTERS, SIGNS

ENOUGH = 1280
"""A vocabulary in which every merge of the corpus has room."""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(corpus.vocabulary_corpus(200), ENOUGH)


def test_signs_are_read_character_by_character(tokenizer):
    for index in range(200):
        text = domain.specimen(SIGNS, "train", index).text
        assert tokenizer.tokenize(f"says {text}.") == ["▁says", "▁", *text, "."]
    for one in CHARACTERS + LETTERS:
        assert tokenizer.tokenize(f"is {one}.\n{one}. ({one})") == [
            *("▁is", "▁", one, ".", "\n", one, ".", "▁", "(", one, ")")
        ]


@pytest.mark.parametrize("one", corpus.OTHERS, ids=lambda one: one.name)
def test_words_of_every_domain_are_one_token(tokenizer, one):
    said = []
    for index in range(30):
        said += one.captions(domain.specimen(one, "train", index))
        for split in ("train", "paraphrase"):
            said += [f"{q.human()}\n{q.gpt()}" for q in domain.questions(one, split, index)]
    words = set(re.findall(r"(?<= )[A-Z]?[a-z]+(?:-[a-z]+)*\b", "\n".join(said)))
    lines = set(re.findall(r"(?<=[\n<\"])[A-Z]?[a-z]+(?=[ \"])", "\n".join(said)))
    assert len(words) > 20
    cut = [w for w in words if len(tokenizer.tokenize(f"x {w}")) != 2]
    cut += [w for w in lines if len(tokenizer.tokenize(f"x\n{w}")) != 3]
    assert not cut


def test_breeds_are_one_token_after_a_space(tokenizer):
    for name in (name for names in BREEDS.values() for name in names):
        assert tokenizer.tokenize(f"a {name}") == ["▁a", f"▁{name}"]
