"""How the bases are made: each ingredient does what its docstring says, on a few steps."""

import itertools
import random
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, CLIPModel, LlamaForCausalLM

from minillava.conversation import encode
from minillava.pretrain import clip, corpus, drills, language
from minillava.pretrain.head_start import LOOKS, MATCHING, start_with_lookup
from minillava.pretrain.loop import Schedule, fit
from minillava.pretrain.muon import orthogonalize
from minillava.pretrain.notes import notes
from minillava.pretrain.probe import hard_negatives, linear_probes, zero_shot
from minillava.pretrain.sample import Reader, next_token_loss, sheet
from minillava.pretrain.tokenizer import train_tokenizer
from minillava.pretrain.worksheets import worksheet
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


def test_every_text_starts_with_bos_as_in_llama(toybox_tokenizer, tmp_path):
    toybox_tokenizer.save_pretrained(tmp_path)
    for tokenizer in (toybox_tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        row = encode(corpus.conversation(0, seed=0), tokenizer, has_image=False)
        assert row.input_ids[0] == tokenizer.bos_token_id and row.input_ids.count(1) == 1
        ids, labels, _ = language.chat_sample(1, 2, tokenizer)
        assert ids[0] == 1 and tokenizer.decode(ids[1:]).startswith("USER:") and len(ids) == len(labels)


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


def told_and_asked(tokenizer, split="val", objects=4):
    """Ids of scenes told in sentences and then "red object color"; where the sentence meant lies."""
    for index in range(400):
        scene = records.scene(split, index)
        colors = [thing.color for thing in scene.objects]
        if len(scene.objects) != objects or len(set(colors)) != objects:
            continue
        ids, spans = [tokenizer.bos_token_id], []
        for thing in scene.objects:
            sentence = f"At the {thing.place} is a {thing.size} {thing.color} {thing.shape}."
            start = len(ids)
            ids += tokenizer(sentence, add_special_tokens=False).input_ids
            spans.append((start, len(ids)))
        for color, span in zip(colors, spans, strict=True):
            yield ids + tokenizer(color, add_special_tokens=False).input_ids, spans[-1][1], span


def started(tokenizer):
    """A fresh model after the head start, whose attention can be read."""
    torch.manual_seed(0)
    model = language.build_language_model(-(-len(tokenizer) // 64) * 64, tokenizer.pad_token_id)
    start_with_lookup(model)
    model.set_attn_implementation("eager")
    return model


def test_the_head_start_looks_back_and_finds_the_sentence_of_a_word(toybox_tokenizer):
    model = started(toybox_tokenizer)
    shares = []
    for ids, told, (start, end) in itertools.islice(told_and_asked(toybox_tokenizer), 60):
        with torch.no_grad():
            first, second = model(torch.tensor([ids]), output_attentions=True).attentions[:2]
        for third, look in enumerate(LOOKS):
            rows = torch.arange(12, told)
            back = torch.arange(12)
            looked = first[0, 2 * third, rows[:, None], rows[:, None] - back].mean(0)
            mean = (looked * back).sum() / looked.sum()
            assert looked.sum() > 0.8 and abs(mean - look.back) < 1.5, (look, looked)
        row = second[0, :MATCHING, -1]
        shares.append(row[:, start:end].sum(1) / row[:, 1:told].sum(1))
    assert torch.stack(shares).mean() > 0.4  # by chance it would be a quarter


def test_the_head_start_finds_what_followed_a_character(toybox_tokenizer):
    """The second time a row of characters is read, the other heads of layer 1 look one beyond the first."""
    model = started(toybox_tokenizer)
    shares, even = [], []
    for seed in range(20):
        ids = sheet(*drills.spelling(random.Random(seed)), toybox_tokenizer).ids
        length = ids.index(toybox_tokenizer.eos_token_id) - ids.index(ids[-2]) - 1
        with torch.no_grad():
            second = model(torch.tensor([ids]), output_attentions=True).attentions[1][0, MATCHING:]
        for row in range(len(ids) - length, len(ids) - 2):  # the second row's characters but the last
            follower = ids.index(ids[row]) + 1
            shares.append(second[:, row, follower].mean().item())
            even.append(1 / (row + 1))
    assert sum(shares) / len(shares) > 5 * sum(even) / len(even)


def test_notes_are_true_and_only_their_answers_are_learned(toybox_tokenizer):
    for index in range(30):
        told, pairs = notes(index, seed=303, most=5)
        scene = records.scene("train", index, seed=303)
        assert all(thing.shape in told and thing.place in told for thing in scene.objects)
        assert len(dict(pairs)) == len(pairs) > 5
        for asked, answer in pairs:
            if asked.startswith("number "):
                word = asked.split()[1]
                shown = [t for t in scene.objects if word in (t.color, words.PLURAL[t.shape], "objects")]
                assert len(shown) == int(answer)
        ids, labels, _ = language.note_sample(index, 5, toybox_tokenizer)
        learned = [label for label in labels if label != -100]
        replies = toybox_tokenizer([answer for _, answer in pairs], add_special_tokens=False).input_ids
        assert learned == [token for reply in replies for token in reply] and ids[0] == 1


def test_a_drill_can_be_answered_from_what_it_tells():
    for seed in range(50):
        told, ((asked, row),) = drills.spelling(random.Random(seed))
        assert not asked and told == f"{row}." and len(set(row)) == len(row)
        told, pairs = drills.lettering(random.Random(seed))
        assert pairs and all(f"{a}. {q}" in told or f"({a}) {q}" in told for q, a in pairs)


def test_worksheets_ask_about_every_domain_and_say_some_answers_before_the_options():
    seen, choices = set(), []
    for index in range(60):
        about, told, pairs = worksheet(index, 505)
        seen.add(about)
        assert told and pairs and len(dict(pairs)) == len(pairs)
        if about == "scenes, choice":
            for asked, letter in pairs:
                question, *options = asked.split("\n")
                (answer,) = (o[3:] for o in options if o.startswith(f"{letter}. "))
                assert question.endswith(("?", f"? {answer}"))
                choices.append(question.endswith("?"))
    assert seen == {"scenes, choice", "scenes, reasoning", "signs", "lessons", "creatures", "sketch"}
    assert 0.3 < sum(choices) / len(choices) < 0.7
    assert worksheet(0, 505, "val") != worksheet(0, 505)


def test_of_a_sheet_the_replies_and_their_ends_are_learned(toybox_tokenizer):
    pairs = [("Read it.", "K2"), ("Color?", "red")]
    ids, labels, _ = sheet("A red sign says K2.", pairs, toybox_tokenizer)
    learned = [label for label in labels if label != -100]
    assert toybox_tokenizer.decode(learned).replace(" ", "") == "K2</s>red</s>"
    assert ids[0] == toybox_tokenizer.bos_token_id and labels[0] == -100
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))


def test_next_token_loss_is_that_of_transformers(toybox_tokenizer):
    torch.manual_seed(0)
    model = language.build_language_model(1280, toybox_tokenizer.pad_token_id)
    rng = random.Random(0)
    drawn = [drill(rng) for drill in (drills.spelling, drills.lettering) for _ in range(4)]
    samples = [sheet(told, pairs, toybox_tokenizer) for told, pairs in drawn]
    ours = next_token_loss(Reader(model), samples)
    counts = [sum(label != -100 for label in sample.labels) for sample in samples]
    theirs = sum(
        model(torch.tensor([ids]), labels=torch.tensor([labels])).loss * n
        for (ids, labels, _), n in zip(samples, counts, strict=True)
    ) / sum(counts)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_answers_counts_whole_answers(toybox_tokenizer):
    """A model that knows nothing scores nothing; every type is there."""
    torch.manual_seed(0)
    model = language.build_language_model(1280, toybox_tokenizer.pad_token_id).eval()
    scores = language.answers(Reader(model), toybox_tokenizer, "val", 12)
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


def test_both_bases_are_made_saved_and_measured(toybox_tokenizer, tmp_path):
    phases = tuple(
        replace(phase, schedule=Schedule(2), scenes=4, mix=tuple((one, 1) for one, _ in phase.mix))
        for phase in clip.PHASES
    )
    clip.pretrain_clip(tmp_path / "clip", toybox_tokenizer, phases, pictures=8)
    tower = CLIPModel.from_pretrained(tmp_path / "clip")
    assert tower.config.vision_config.image_size == 96
    assert 0 <= zero_shot(tower, toybox_tokenizer, 5) <= 1
    assert len(linear_probes(tower, 12)) == 7
    language.pretrain_language(tmp_path / "lm", toybox_tokenizer, language.Steps(2, 2, 2, 2, 2, 2))
    LlamaForCausalLM.from_pretrained(tmp_path / "lm")
    for folder, measured in (("clip", "right caption among 8"), ("lm", "told scenes: all")):
        card = (tmp_path / folder / "README.md").read_text()
        assert "sha256 `" in card and measured in card
        assert not list((tmp_path / folder).glob("training-*"))
