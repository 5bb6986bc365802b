"""Each method's arithmetic on tensors worked out by hand, and each on a model from question to map."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from minillava import relevance
from minillava.attention import answer_maps
from minillava.passage import passage
from minillava.relevance import METHODS

QUESTION = "What color is the ball?"


@pytest.fixture
def said(make_model, picture):
    return passage(make_model(), picture, QUESTION, answer="red ball")


def test_sinks_are_massive_where_the_first_position_is():
    states = torch.ones(2, 4, 64)
    states[0, 0, 3] = states[0, 2, 3] = 40  # massive in the first position's own dimension
    states[0, 1, 5] = 40  # massive, but in a dimension that is not a sink's
    states[1, 3, 3] = 40  # the first position of this layer has none
    expected = torch.tensor([[True, False, True, False], [True, False, False, False]])
    assert torch.equal(relevance.find_sinks(states), expected)
    assert torch.equal(relevance.find_sinks(states * 1e-3), expected)


def test_the_bound_is_the_papers_at_its_width():
    """20 root mean squares of a state of width 4096."""
    for times, is_sink in ((19.9, False), (20.1, True)):
        state = torch.ones(1, 2, 4096)
        state[..., 7] = times * (4095 / (4096 - times**2)) ** 0.5  # so that x[7] / rms(x) = times
        assert (state[0, 0, 7] / state[0, 0].pow(2).mean().sqrt()).item() == pytest.approx(times, rel=1e-4)
        assert relevance.find_sinks(state)[0].tolist() == [True, is_sink]


def test_without_sinks_a_row_still_sums_to_one():
    weights = torch.tensor([[[[0.5, 0.3, 0.2, 0.0]], [[0.9, 0.1, 0.0, 0.0]]]])  # [1, 2, 1, 4]
    sinks = torch.tensor([[True, True, False, False]])
    expected = torch.tensor([[[[0.0, 0.0, 1.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]]])
    assert_close(relevance.without(weights, sinks), expected)
    kept = relevance.without(weights, torch.tensor([[True, False, False, False]]))
    assert_close(kept[0, 0, 0], torch.tensor([0, 0.6, 0.4, 0]))


def test_relative_attention_divides_head_means_and_averages_layers():
    asked = torch.tensor([[[[0.2, 0.1]], [[0.4, 0.1]]], [[[0.1, 0.0]], [[0.1, 0.2]]]])  # [2, 2, 1, 2]
    usual = torch.tensor([[[[0.1, 0.1]], [[0.1, 0.3]]], [[[0.2, 1e-9]], [[0.0, 0.0]]]])
    expected = [(0.3 / 0.1 + 0.1 / 0.1) / 2, (0.1 / 0.2 + 0.1 / 0.05) / 2]
    assert_close(relevance.relative_to(asked, usual, floor=0.05), torch.tensor([expected]))


def test_rollout_multiplies_layers_with_the_residual_as_half():
    first = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    second = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.5, 0, 0.5]])
    weights = torch.stack([first, second])[:, None].repeat(1, 2, 1, 1)
    weights[0, 0, 1] += torch.tensor([-0.25, 0.25, 0])  # the mean over heads is what counts
    weights[0, 1, 1] -= torch.tensor([-0.25, 0.25, 0])
    # the last row, from above: 1/4 of row 0, 3/4 of row 2; and row 2 of the first layer is (0, 1/2, 1/2)
    expected = [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 4, 3 / 8, 3 / 8]]
    assert_close(relevance.rolled_out(weights), torch.tensor(expected))


def test_gradients_count_where_they_raise_the_answer():
    weights = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.9, 0.1]]]])
    gradients = torch.tensor([[[[0.0, 0.0], [2.0, -4.0]], [[0.0, 0.0], [-1.0, 3.0]]]])
    step = torch.tensor([[0.0, 0.0], [0.5, 0.15]])
    eye = torch.eye(2)
    assert_close(relevance.propagated(weights, gradients), eye + step)
    twice = relevance.propagated(weights.repeat(2, 1, 1, 1), gradients.repeat(2, 1, 1, 1))
    assert_close(twice, eye + 2 * step + step @ step)


def test_the_lens_reads_probabilities_of_the_words_said():
    head = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])  # three words, width 2
    said_by = relevance.read_out(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), lambda x: x @ head.T, [2, 1])
    e = np.e
    assert_close(said_by, torch.tensor([[1 / 3, 1 / (2 + e)], [1 / 3, e / (2 + e)]]))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_map_per_token_in_the_pictures_pixels(name, said):
    found = METHODS[name](said)
    assert "".join(found.tokens).strip() == "red ball"
    assert found.maps.shape == (len(found.tokens), 4, 4) and found.maps.dtype == np.float32
    assert np.isfinite(found.maps).all() and found.maps.min() >= 0 and found.maps.max() > 0
    assert found.pictures.shape == (len(found.tokens), 20, 30)
    # 30 x 20 pixels are padded to 30 x 30: the picture's first row shows the grid's first with all of it
    for shown, one in zip(found.pictures, found.maps, strict=True):
        assert shown[0, 0] == np.float64(one[0, 0]) and shown[-1, -1] == np.float64(one[3, 3])
    assert said.model.language_model.config._attn_implementation == "sdpa"
    assert all(parameter.grad is None for parameter in said.model.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_models_are_explained_alike(name, said):
    expected = METHODS[name](said).maps
    rough = replace(said, model=said.model.bfloat16(), features=said.features.bfloat16())
    found = METHODS[name](rough).maps
    assert found.dtype == np.float32
    assert np.corrcoef(found.reshape(-1), expected.reshape(-1))[0, 1] > 0.95


def test_raw_attention_is_that_of_the_passes_that_spoke(make_model, picture):
    model = make_model()
    spoken = answer_maps(model, picture, QUESTION, max_new_tokens=3, min_new_tokens=3)
    said = passage(model, picture, QUESTION, max_new_tokens=3, min_new_tokens=3)
    assert said.answer == spoken.answer
    expected = spoken.answered.maps.mean((1, 2))
    assert_close(torch.tensor(relevance.raw(said).maps), torch.tensor(expected), rtol=0, atol=1e-5)
    one = relevance.raw(said, layers=[1], heads=[2]).maps
    assert_close(torch.tensor(one), torch.tensor(spoken.answered.maps[:, 1, 2]), rtol=0, atol=1e-5)


def test_layers_counted_from_the_end_lose_their_own_sinks(said, monkeypatch):
    sinks = torch.zeros(2, len(said.ids), dtype=torch.bool)
    sinks[0, said.patches[0]] = sinks[1, said.patches[1]] = True
    monkeypatch.setattr(relevance, "find_sinks", lambda states: sinks)
    for layers in ([0, -1], [-1, 0], [1, 0]):
        found = relevance.sink_masked(said, layers=layers).maps
        assert_close(torch.tensor(found), torch.tensor(relevance.sink_masked(said).maps))
    assert relevance.sink_masked(said, layers=[-1]).maps[0, 0, 1] == 0


def test_relative_attention_to_itself_is_one(make_model, picture):
    model = make_model()
    said = passage(model, picture, QUESTION, max_new_tokens=1)
    assert_close(torch.tensor(relevance.relative(said, generic=QUESTION).maps[0]), torch.ones(4, 4))


def test_the_lens_at_the_last_layer_is_the_models_own_prediction(said):
    with torch.no_grad():
        logits = said.model.language_model(inputs_embeds=said.embeds()).logits[0, said.patches]
    expected = logits.softmax(-1)[:, said.answer_ids[0]].view(4, 4)
    assert_close(torch.tensor(relevance.logit_lens(said).maps[0]), expected)
    earlier = relevance.logit_lens(said, layer=0).maps
    assert not np.allclose(earlier, relevance.logit_lens(said).maps)


def test_the_gradient_is_that_of_the_logit_said(said):
    found = relevance.gradient(said).maps
    head = said.model.language_model.lm_head.weight.data
    words = set(said.answer_ids)
    head[[i for i in range(len(head)) if i not in words]] = 0  # what was not said does not matter
    assert_close(relevance.gradient(said).maps, found)
    head[said.answer_ids[0]] = 0
    assert not relevance.gradient(said).maps[0].any() and relevance.gradient(said).maps[1:].any()


def test_an_answer_is_found_in_its_passage(said, make_model):
    assert "".join(said.tokens[said.start :]) == " red ball"
    assert said.rows == list(range(said.start - 1, len(said.ids) - 1))
    assert len(said.patches) == 16 and said.answer == "red ball"
    where = said.find("color")
    assert "".join(said.tokens[i] for i in where).strip() == "color"
    with pytest.raises(ValueError, match="'purple' is not in"):
        said.find("purple")
    with pytest.raises(ValueError, match="leave it out"):
        passage(make_model(), Image.new("RGB", (4, 4)), QUESTION, answer="")


def test_an_empty_answer_has_nothing_to_explain(make_model, picture):
    model = make_model()
    said = passage(model, picture, QUESTION, max_new_tokens=1, forced_eos_token_id=2)
    assert said.answer == "" and said.start == len(said.ids)
    with pytest.raises(ValueError, match="answer is empty"):
        relevance.raw(said)
