"""How the bases are made: each ingredient does what its docstring says, on a few steps."""

import random
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, CLIPModel, LlamaForCausalLM

from minillava.pretrain import clip, corpus, language
from minillava.pretrain.induction import LOOK_BACK, start_with_induction
from minillava.pretrain.loop import Schedule, fit
from minillava.pretrain.muon import orthogonalize
from minillava.pretrain.probe import hard_negatives, linear_probes, zero_shot
from minillava.pretrain.tokenizer import train_tokenizer
from minillava.toybox import language as words
from minillava.toybox import records


@pytest.fixture(scope="module")
def toybox_tokenizer():
    return train_tokenizer(corpus.vocabulary_corpus(200))


def test_every_toybox_word_is_one_token(toybox_tokenizer):
    for word in ("star", "triangle", "yellow", "bottom", "right", "USER", "ASSISTANT", "crosses"):
        assert len(toybox_tokenizer.tokenize(f"a {word}")) == 2, word


def test_any_text_is_encodable(toybox_tokenizer):
    for text in ("Käse 😀 {x} \t\\", "日本語", "3.14 ~ #!"):
        ids = toybox_tokenizer(text).input_ids
        assert toybox_tokenizer.unk_token_id not in ids
        assert toybox_tokenizer.decode(ids, skip_special_tokens=True) == text


def test_ids_are_laid_out_as_in_llama(toybox_tokenizer):
    names = toybox_tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 13])
    assert names == ["<unk>", "<s>", "</s>", "<0x00>", "<0x0A>"]
    assert toybox_tokenizer.tokenize("<image>\n")[0] == "<image>"
    assert toybox_tokenizer.pad_token == "<pad>"


def test_a_trained_tokenizer_comes_back_the_same(toybox_tokenizer, tmp_path):
    toybox_tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "USER: <image>\nWhat color is the star? ASSISTANT: red</s>USER: Why?"
    assert again(text).input_ids == toybox_tokenizer(text).input_ids


def test_the_corpus_never_shows_a_picture_nor_a_withheld_pair():
    for index in range(200):
        text = str(corpus.conversation(index, seed=0))
        assert "<image>" not in text
        assert "red circle at" not in text and "red circle." not in text


def test_orthogonalize_flattens_the_singular_values():
    torch.manual_seed(0)
    for shape in ((2, 8, 20), (1, 20, 8)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.4


def test_the_induction_start_looks_back_and_finds_what_followed():
    torch.manual_seed(0)
    model = language.build_language_model(704, pad=0)
    start_with_induction(model)
    model.set_attn_implementation("eager")
    piece = torch.randint(300, 600, (4, 20))
    filler = torch.randint(300, 600, (4, 6))
    ids = torch.cat([torch.ones(4, 1, dtype=torch.long), piece, filler, piece], dim=1)
    with torch.no_grad():
        first, second = model(ids, output_attentions=True).attentions[:2]
    rows = torch.arange(6, ids.shape[1])
    for head, back in enumerate(LOOK_BACK):
        assert first[:, head, rows, rows - back].mean() > 0.7
    # The second time round, row t looks at what followed the same word: 20 + 6 - 1 positions back.
    again = torch.arange(1 + 20 + 6, ids.shape[1])
    found = second[:, 0, again, again - 25].mean()
    assert found > 5 / len(ids[0])


def test_repeats_label_what_can_be_copied():
    for seed in range(50):
        ids, labels = language.repeats(list(range(300, 400)), 1, random.Random(seed), 24)
        learned = [i for i, label in enumerate(labels) if label != -100]
        assert ids[0] == 1 and len(ids) == len(labels) and len(learned) >= 3
        assert all(ids[i] == labels[i] for i in learned)
        piece = ids[learned[0] - 1 :]
        source = ids[1 : learned[0] - 1]
        assert any(source[i : i + len(piece)] == piece for i in range(len(source)))


def test_next_token_loss_is_that_of_transformers(toybox_tokenizer):
    torch.manual_seed(0)
    model = language.build_language_model(704, toybox_tokenizer.pad_token_id)
    samples = [language.repeats(list(range(300, 400)), 1, random.Random(s), 12) for s in range(2)]
    ours = language.next_token_loss(model, samples)
    counts = [sum(label != -100 for label in labels) for _, labels in samples]
    theirs = sum(
        model(torch.tensor([ids]), labels=torch.tensor([labels])).loss * n
        for (ids, labels), n in zip(samples, counts, strict=True)
    ) / sum(counts)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_answers_counts_whole_answers(toybox_tokenizer):
    """A model that knows nothing scores nothing; every type is there."""
    torch.manual_seed(0)
    model = language.build_language_model(704, toybox_tokenizer.pad_token_id).eval()
    scores = language.answers(model, toybox_tokenizer, "val", 12)
    assert scores["all"] < 0.05 and set(scores) == {"all", *words.TYPES}


def test_fit_goes_on_to_the_same_bits(tmp_path):
    def train(folder, stop=None):
        torch.manual_seed(0)
        module = nn.Linear(3, 1)

        def loss(step):
            if step == stop:
                raise KeyboardInterrupt
            x = torch.full((4, 3), float(step % 3))
            return (module(x) - 1).square().mean()

        optimizers = [torch.optim.AdamW(module.parameters())]
        fit(module, loss, optimizers, Schedule(20), folder, "test", save_every=5)
        return module.weight

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop=12)
    assert torch.equal(train(tmp_path / "cut"), whole)


def test_fit_stops_at_a_loss_that_is_not_a_number(tmp_path):
    module = nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="test: the loss is nan at step 0"):
        fit(
            module,
            lambda step: module(torch.full((1, 1), float("nan"))).sum(),
            [torch.optim.AdamW(module.parameters())],
            Schedule(3),
            tmp_path,
            "test",
        )


def test_hard_negatives_are_false_and_one_word_away():
    scene = records.scene("val", 1)
    true = words.caption(scene)
    for caption in hard_negatives(scene, 7, random.Random(0)):
        differing = [a for a, b in zip(caption.split(), true.split(), strict=True) if a != b]
        assert 1 <= len(differing) <= 2  # "a" may become "an"


def test_both_bases_are_made_saved_and_measured(toybox_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "BATCH", 8)
    phases = tuple(replace(phase, schedule=Schedule(2)) for phase in clip.PHASES)
    clip.pretrain_clip(tmp_path / "clip", toybox_tokenizer, phases)
    tower = CLIPModel.from_pretrained(tmp_path / "clip")
    assert tower.config.vision_config.image_size == 96
    assert 0 <= zero_shot(tower, toybox_tokenizer, 5) <= 1
    assert len(linear_probes(tower, 12)) == 7
    language.pretrain_language(tmp_path / "lm", toybox_tokenizer, repeat_steps=2, chat_steps=2)
    LlamaForCausalLM.from_pretrained(tmp_path / "lm")
    for folder, measured in (("clip", "right caption among 8"), ("lm", "told scenes: all")):
        card = (tmp_path / folder / "README.md").read_text()
        assert "sha256 `" in card and measured in card
        assert not list((tmp_path / folder).glob("training-*"))
