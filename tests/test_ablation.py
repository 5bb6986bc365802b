"""What is taken away is gone, exactly there, and nothing else changes."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from minillava.ablation import blanked, drop_heads, knock_out, mean_feature, perturbation
from minillava.attention import record
from minillava.images import preprocess
from minillava.passage import passage

QUESTION = "What color is the ball?"


@pytest.fixture
def model(make_model):
    return make_model()


def inputs(batch=2, length=9, seed=1):
    return torch.randint(3, 250, (batch, length), generator=torch.Generator().manual_seed(seed))


def marks(*cells, batch=2, length=9):
    found = torch.zeros(batch, length, dtype=torch.bool)
    for sample, position in cells:
        found[sample, position] = True
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
def test_cut_edges_carry_nothing_and_the_rest_grows(model, attention, padded):
    llama, ids = model.language_model, inputs()
    llama.set_attn_implementation(attention)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :2] = 0
    with torch.no_grad(), record(llama) as before:
        llama(ids, attention_mask=mask)
    rows, columns = marks((0, 6), (0, 8), (1, 7)), marks((0, 1), (0, 3), (1, 4))
    with torch.no_grad(), knock_out(llama, rows, columns, layers=[1]), record(llama) as after:
        llama(ids, attention_mask=mask)
    assert_close(after.weights[:, 0], before.weights[:, 0])
    edges = (rows[:, :, None] & columns[:, None, :])[:, None].expand(-1, 4, -1, -1)
    cut = after.weights[:, 1]
    assert not cut[edges].any()
    kept = before.weights[:, 1].masked_fill(edges, 0)
    there = torch.ones(2, 9, dtype=torch.bool) if not padded else mask.bool()
    expected = kept / kept.sum(-1, keepdim=True)
    assert_close(cut.transpose(1, 2)[there], expected.transpose(1, 2)[there], rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_row_with_nothing_else_to_look_at_keeps_itself(model, attention):
    """All edges to the first position are cut, its own among them: it must not see what comes later."""
    llama, ids = model.language_model, inputs(batch=1)
    llama.set_attn_implementation(attention)
    rows, columns = torch.ones(1, 9, dtype=torch.bool), marks((0, 0), batch=1)
    with torch.no_grad(), knock_out(llama, rows, columns), record(llama) as cut:
        logits = llama(ids).logits
        changed = llama(torch.cat([ids[:, :-1], ids[:, -1:] + 1], 1)).logits
        pad = torch.zeros(1, 2, dtype=torch.long)
        mask = torch.cat([pad, torch.ones_like(ids)], 1)
    assert (cut.weights[0, :, :, 0, 0] == 1).all() and not cut.weights[0, :, :, 1:, 0].any()
    assert_close(changed[:, :-1], logits[:, :-1])
    wide = torch.cat([pad.bool(), rows], 1), torch.cat([pad.bool(), columns], 1)
    with torch.no_grad(), knock_out(llama, *wide):
        padded = llama(torch.cat([pad, ids], 1), attention_mask=mask, position_ids=mask.cumsum(1) - 1).logits
    assert_close(padded[:, 2:], logits, rtol=0, atol=1e-5)


def test_beams_are_more_samples_than_the_rows_are_of(model):
    llama, ids = model.language_model, inputs()
    with pytest.raises(ValueError, match="rows. are of 2 samples, but 6 came"):
        with knock_out(llama, marks((0, 8)), marks((0, 2))):
            llama.generate(ids, max_new_tokens=2, num_beams=3, do_sample=False)


def test_what_is_generated_goes_on_with_the_last_row(model):
    llama, ids = model.language_model, inputs()
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    options = dict(attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    rows, columns = marks((0, 8), (1, 4)), marks((0, 2), (1, 3))
    with knock_out(llama, rows, columns), record(llama) as recording:
        llama.generate(ids, **options)
    weights = recording.weights  # [2, 2, 4, 11, 11]
    assert weights.shape[-2:] == (11, 11)
    assert not weights[0, :, :, 8:, 2].any() and (weights[0, :, :, 2:8, 2] > 0).all()
    assert not weights[1, :, :, 4, 3].any() and (weights[1, :, :, 5:, 3] > 0).all()


def test_a_cut_changes_the_loss_whichever_logits_are_wanted(model):
    ids = inputs()
    labels = torch.full_like(ids, -100)
    labels[:, -2:] = ids[:, -2:]
    rows, columns = marks((0, 6), (0, 7), (1, 7)), marks((0, 1), (1, 4))
    with torch.no_grad():
        intact = model(ids, labels=labels, all_logits=False).loss
        with knock_out(model, rows, columns):
            whole, lean = (model(ids, labels=labels, all_logits=every).loss for every in (True, False))
    assert_close(lean, whole)
    assert not torch.allclose(lean, intact)


def test_hooks_are_gone_even_after_an_error(model):
    nothing = marks()
    for held in (knock_out(model, nothing, nothing), drop_heads(model, [(0, 1)])):
        with pytest.raises(ZeroDivisionError), held:
            raise ZeroDivisionError
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_vision_tower_loses_the_cut_edges_only(model, picture, attention):
    """Its patches see those behind them too, before and after."""
    tower, pixels = model.vision_tower, preprocess(picture, 16)[None]
    tower.set_attn_implementation(attention)
    rows, columns = (marks((0, place), batch=1, length=17) for place in (3, 9))
    with torch.no_grad(), record(tower, [0]) as before:
        tower(pixels)
    with torch.no_grad(), knock_out(tower, rows, columns), record(tower, [0]) as after:
        tower(pixels)
    expected = before.weights.clone()
    expected[..., 3, 9] = 0
    assert_close(after.weights, expected / expected.sum(-1, keepdim=True), rtol=0, atol=1e-5)


def test_layers_and_heads_that_are_not_there_are_named(model):
    nothing = marks()
    for held in (knock_out(model, nothing, nothing, layers=[99]), drop_heads(model, [(99, 0)])):
        with pytest.raises(ValueError, match="no layer 99; the model has 0 to 1"), held:
            pass
    with pytest.raises(ValueError, match="no head 4; the model has 0 to 3"), drop_heads(model, [(0, 4)]):
        pass


def test_a_dropped_head_adds_nothing(model):
    llama, ids = model.language_model, inputs()
    with torch.no_grad():
        intact = llama(ids).logits
        with drop_heads(llama, [(1, 2), (0, 0), (1, 3)]):
            dropped = llama(ids).logits
        first, second = (layer.self_attn.o_proj.weight for layer in llama.model.layers)
        first[:, :16] = second[:, 2 * 16 :] = 0  # the columns that read those heads
        assert_close(dropped, llama(ids).logits)
    assert not torch.allclose(dropped, intact)


def test_the_mean_feature_and_what_is_blanked(model, picture):
    other = picture.transpose(2)
    features = model.encode_images(torch.stack([preprocess(p, 16) for p in (picture, other)]))
    mean = mean_feature(model, [picture, other], batch_size=1)
    assert_close(mean, features.flatten(0, 1).mean(0))
    gone = torch.zeros(2, 16, dtype=torch.bool)
    gone[0, 3] = gone[1, 15] = True
    left = blanked(features, gone, mean)
    assert torch.equal(left[~gone], features[~gone])
    assert_close(left[gone], mean.expand(2, -1))


def test_deletion_and_insertion_take_patches_in_the_order_of_the_map(model, picture):
    said = passage(model, picture, QUESTION, answer="red")
    mean = torch.zeros(16)
    heat = np.random.default_rng(0).random((4, 4))
    deletion, insertion = perturbation(said, heat, mean, steps=4)
    order = np.argsort(-heat.reshape(-1))

    def chance(kept):
        features = torch.where(torch.tensor(kept)[None, :, None], said.features, mean)
        with torch.no_grad():
            logits = model.language_model(inputs_embeds=said.embeds(features)).logits[0]
        chances = logits[said.rows].log_softmax(-1)
        return chances[range(len(said.rows)), said.answer_ids].sum().exp().item()

    for step, count in enumerate([0, 4, 8, 12, 16]):
        strongest = np.isin(np.arange(16), order[:count])
        assert deletion[step] == pytest.approx(chance(~strongest), rel=1e-4)
        assert insertion[step] == pytest.approx(chance(strongest), rel=1e-4)
    assert deletion[0] == pytest.approx(insertion[-1]) and deletion[-1] == pytest.approx(insertion[0])
