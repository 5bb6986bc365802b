"""The phase of all domains: rows and their facts, twins, regions, probes; on a few pictures."""

import random
from dataclasses import replace

import pytest
import torch

from minillava.pretrain import clip, corpus
from minillava.pretrain.clip_edges import edge_head
from minillava.pretrain.clip_facts import (
    Row,
    count_rows,
    domain_rows,
    draw_facts,
    facts_loss,
    neighbors,
    scene_rows,
)
from minillava.pretrain.clip_model import build_clip, embed_regions, embed_texts, see
from minillava.pretrain.probe import domain_probes, ridge_accuracy
from minillava.pretrain.readings import READ
from minillava.pretrain.tokenizer import train_tokenizer
from minillava.toybox import records
from minillava.toybox.domain import belongs, facts, specimen
from minillava.toybox.scene import MAX_OBJECTS
from minillava.toybox.scenes import SCENES
from minillava.toybox.signs import SIGNS
from minillava.toybox.sketch import SKETCH


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(corpus.vocabulary_corpus(60))


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    size = -(-len(tokenizer) // 64) * 64
    return build_clip(size, tokenizer.bos_token_id, tokenizer.pad_token_id).eval()


def drawn_rows(rng=None):
    rng = rng or random.Random(0)
    rows = [row for i in range(4) for row in scene_rows(records.scene("train", i), i, rng)]
    pictures = ((domain, i) for domain, _ in clip.MIX for i in range(4))
    for number, (domain, i) in enumerate(pictures, 4):
        rows += domain_rows(domain, specimen(domain, "train", i), number, rng)
    return rows


def test_the_last_phases_are_of_all_domains():
    *before, everything, reading, counting, edges = clip.PHASES
    assert not any(phase.mix for phase in before) and everything.name == "all"
    assert edges.edges and not any(phase.edges for phase in clip.PHASES[:-1])
    for last in (everything, reading, counting, edges):
        assert {domain for domain, _ in last.mix} == {domain for domain, _ in READ}
        assert last.scenes % 2 == 0 and last.kept == 64


def test_edges_are_learned_of_scenes_and_sketches_alone(model, tokenizer, monkeypatch):
    asked = []

    def loss_of(head, patches, boxes):
        asked.append(boxes)
        return head.bias.sum()

    monkeypatch.setattr(clip, "edges_loss", loss_of)
    bias, head = torch.nn.Parameter(torch.tensor(-3.0)), edge_head(model.config.vision_config.hidden_size)
    trained = torch.nn.ModuleDict({"clip": model, "bias": torch.nn.ParameterList([bias]), "edges": head})
    phase = replace(clip.PHASES[-1], scenes=2, mix=((SIGNS, 1), (SKETCH, 1)))
    loss = clip.batch_loss(trained, tokenizer, 0, random.Random(0), phase)
    drawn = list(clip.scenes(0, random.Random(0), phase.most, 2))
    sketch = specimen(SKETCH, "train", 0, seed=101)  # the batch's fourth picture
    boxes = [(i, thing.box) for i, scene in enumerate(drawn) for thing in scene.objects]
    assert asked == [boxes + [(3, thing.box) for thing in SKETCH.things(sketch)]]
    assert torch.autograd.grad(loss, head.bias)[0].tolist() == [phase.edges] * 4


def test_rows_are_the_picture_and_things_of_which_something_is_said():
    for domain, _ in clip.MIX:
        for i in range(20):
            made = specimen(domain, "train", i)
            whole, *things = domain_rows(domain, made, 7, random.Random(i))
            assert whole.box is None and whole.true == facts(domain, made)[0]
            known = [
                (thing.box, true)
                for thing, true in zip(domain.things(made), facts(domain, made)[1:], strict=True)
            ]
            assert 1 <= len(things) <= 6
            assert all(row.true and (row.box, row.true) in known and row.picture == 7 for row in things)


def test_every_object_is_told_how_many_are_like_it():
    stars = 0
    for index in range(60):
        scene = records.scene("train", index)
        whole, *objects = count_rows(scene, 7)
        number = sum(thing.shape == "star" for thing in scene.objects)
        assert (f"{number} stars" in whole.true) == (number > 0)
        for row, thing in zip(objects, scene.objects, strict=True):
            assert row.box == thing.box and row.picture == 7 and row.true < whole.true
            assert f"an object one of {len(scene.objects)} objects" in row.true
            alike = sum(thing.color == other.color for other in scene.objects)
            assert any(fact.endswith(f"one of {alike} {thing.color} objects") for fact in row.true)
            assert (thing.shape == "star") == (f"a star one of {number} stars" in row.true)
        stars += number > 1
    assert stars > 2


def test_a_wrong_number_is_the_twin_of_a_number():
    rows = [row for i in range(30) for row in count_rows(records.scene("train", i), i) if row.box]
    twins = [(fact, twin) for _, fact, twin in draw_facts(rows, random.Random(0)) if twin]
    assert len(twins) > len(rows)
    for fact, twin in twins:
        (word, other), *more = [(a, b) for a, b in zip(fact.split(), twin.split(), strict=True) if a != b]
        assert word.isdigit() and other.isdigit() and not more


def test_neighbors_differ_in_one_word():
    texts = ("the first is K", "the first is J", "the last is K", "first is K", "a K")
    assert neighbors(texts) == {
        "the first is K": ["the last is K", "the first is J"],
        "the first is J": ["the first is K"],
        "the last is K": ["the first is K"],
        "first is K": [],
        "a K": [],
    }


def test_drawn_facts_are_true_and_their_twins_false_by_one_word():
    rows = drawn_rows()
    drawn = draw_facts(rows, random.Random(1))
    assert {i for i, *_ in drawn} == set(range(len(rows)))
    for i, fact, twin in drawn:
        assert fact in rows[i].true
        if twin:
            assert twin not in rows[i].true
            assert sum(a != b for a, b in zip(fact.split(), twin.split(), strict=True)) == 1
            assert any(twin in row.true for row in rows if row.domain == rows[i].domain)
    assert sum(twin is not None for *_, twin in drawn) > len(drawn) / 2


def test_see_gives_what_transformers_and_llava_give(model):
    pixels = torch.randn(2, 3, 96, 96)
    pictures, patches = see(model, pixels)
    out = model.vision_model(pixel_values=pixels, output_hidden_states=True)
    theirs = model.visual_projection(out.pooler_output)
    torch.testing.assert_close(pictures, theirs / theirs.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(patches, out.hidden_states[-2][:, 1:])


def test_a_region_is_the_mean_of_its_patches(model):
    patches = torch.randn(1, 64, 128)
    covers = torch.zeros(1, 64)
    covers[0, 3], covers[0, 4] = 0.5, 0.25
    mean = (2 * patches[:, 3] + patches[:, 4]) / 3
    region = embed_regions(model, patches, covers)
    expected = model.visual_projection(model.vision_model.post_layernorm(mean))
    torch.testing.assert_close(region, expected / expected.norm(dim=-1, keepdim=True))
    covers[0, 60] = 1.0
    assert not torch.allclose(embed_regions(model, patches, covers), region)


def test_the_loss_of_facts_falls_only_for_the_right_boxes(model, tokenizer):
    """Features in which one patch tells a character from the others are found under that character's box."""
    sign = specimen(SIGNS, "train", 5)
    rows = [row for row in domain_rows(SIGNS, sign, 0, random.Random(0), number=9) if row.box]
    pictures, patches = torch.zeros(1, 128), torch.randn(1, 64, 128, requires_grad=True)
    facts_loss(
        model, torch.tensor(-3.0), tokenizer, rows[1:2], pictures, patches, random.Random(0)
    ).backward()
    x1, y1, x2, y2 = (value / 12 for value in rows[1].box)
    touched = patches.grad[0].abs().sum(1).view(8, 8).nonzero()
    assert len(touched)
    assert all(y1 - 1 < row < y2 and x1 - 1 < column < x2 for row, column in touched.tolist())


def test_a_few_steps_on_one_batch_lower_the_loss_of_facts(model, tokenizer):
    rows = drawn_rows()[::3]
    pictures = torch.nn.functional.normalize(torch.randn(20, 128), dim=-1)
    patches = torch.randn(20, 64, 128)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss = facts_loss(model, torch.tensor(-3.0), tokenizer, rows, pictures, patches, random.Random(0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_twins_are_told_apart_before_any_picture_helps(model, tokenizer):
    """Features that say nothing: all that can still be learned is that a fact and its twin differ."""
    told = [embed_texts(model, tokenizer, [f"character {c}" for c in "JK"])]
    rows = [Row("signs", i, (0, 0, 12, 12), frozenset([f"character {c}"])) for i, c in enumerate("JK")]
    pictures, patches = torch.ones(2, 128), torch.ones(2, 64, 128)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(10):
        facts_loss(model, torch.tensor(-3.0), tokenizer, rows, pictures, patches, random.Random(0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    told.append(embed_texts(model, tokenizer, [f"character {c}" for c in "JK"]))
    before, after = ((vectors[0] @ vectors[1]).item() for vectors in told)
    assert after < 0.7 < before


def test_texts_have_no_beginning_token_whatever_the_tokenizer_adds(model, tokenizer):
    texts, end = ["a red star", "a toy at the left"], [tokenizer.eos_token_id, tokenizer.pad_token_id]
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    assert all(tokenizer.bos_token_id not in row for row in ids)
    with torch.no_grad():
        alone = [model.text_model(input_ids=torch.tensor([row + end])).pooler_output for row in ids]
        expected = torch.nn.functional.normalize(model.text_projection(torch.cat(alone)), dim=-1)
        torch.testing.assert_close(embed_texts(model, tokenizer, texts), expected)
        many = [*texts[:1], *["a star"] * 100, *texts[1:]]  # more than pass at once, and of other lengths
        torch.testing.assert_close(embed_texts(model, tokenizer, many)[[0, -1]], expected)


def test_probes_read_what_there_is(model):
    for domain, read in READ:
        scores = domain_probes(model, domain, read, 24)
        made = [specimen(domain, "val", i) for i in range(24)]
        kinds = {what for one in made for what, *_ in read(one)}
        assert set(scores) == {0, 5} and set(scores[5]) == kinds == set(scores[0])
        assert all(0 <= value <= 1 for row in scores.values() for value in row.values())
        numbers = [(number, len(domain.things(one))) for one in made for _, number, _ in read(one)]
        assert all(number < things for number, things in numbers)


def test_a_linear_readout_finds_what_lies_there_and_nothing_else():
    torch.manual_seed(0)
    x = torch.randn(300, 10)
    assert ridge_accuracy(x, ["left" if value < 0 else "right" for value in x[:, 3]]) > 0.9
    assert ridge_accuracy(x, random.Random(0).choices("abcd", k=300)) < 0.45


def test_every_scene_it_trains_on_may_be_trained_on():
    """Hard negatives, too: a star for a circle may be what a held-out picture shows."""
    for most in (1, MAX_OBJECTS):
        drawn = list(clip.scenes(0, random.Random(0), most, 300))
        assert len(drawn) == 300 and all(belongs(SCENES, scene, "train") for scene in drawn)
        assert sum(one == other for one, other in zip(drawn[::2], drawn[1::2], strict=True)) < 5
