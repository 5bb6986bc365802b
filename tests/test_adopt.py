"""A llava-hf model is looked at through its own weights, by the same calls as ours."""

import pytest
import torch
from torch.testing import assert_close
from transformers import LlavaForConditionalGeneration

from minillava.adopt import adopt
from minillava.attention import answer_maps, record
from minillava.conversation import encode
from minillava.images import preprocess
from minillava.passage import passage
from minillava.relevance import METHODS

QUESTION = "What color is the ball?"


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def theirs(request, make_config):
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(make_config(request.param))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.2)
    return model.eval()


@pytest.fixture
def prompt(tokenizer, picture):
    turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": None}]
    ids = encode(turns, tokenizer, num_image_tokens=16).input_ids
    return {"input_ids": torch.tensor([ids]), "pixel_values": preprocess(picture, 16)[None]}


def test_the_weights_are_shared_and_the_logits_the_same(theirs, tokenizer, prompt):
    ours = adopt(theirs, tokenizer)
    with torch.no_grad():
        assert_close(ours(**prompt).logits, theirs(**prompt).logits)
        theirs.lm_head.weight.zero_()
        assert not ours(**prompt).logits.any()
    assert adopt(ours) is ours and not ours.training
    assert adopt(theirs.train(), tokenizer).training and theirs.training


def test_one_call_maps_an_answer_of_a_llava_hf_model(theirs, tokenizer, prompt, picture):
    result = answer_maps(theirs, picture, QUESTION, tokenizer=tokenizer, max_new_tokens=4)
    with record(theirs, rows=-1) as recording:
        out = theirs.generate(**prompt, max_new_tokens=4, do_sample=False, eos_token_id=2, pad_token_id=0)
    new = out[0, prompt["input_ids"].shape[1] :].tolist()
    assert result.answer == tokenizer.decode(new, skip_special_tokens=True).strip()
    start = prompt["input_ids"][0].tolist().index(theirs.config.image_token_id)
    expected = recording.weights[0, ..., start : start + 16].permute(2, 0, 1, 3)
    count = len(result.answered.tokens)
    assert count
    assert_close(torch.tensor(result.answered.maps).flatten(3), expected[:count], rtol=0, atol=1e-5)


def test_every_method_explains_an_answer_of_a_llava_hf_model(theirs, tokenizer, picture):
    said = passage(theirs, picture, QUESTION, answer="red", tokenizer=tokenizer)
    for method in METHODS.values():
        assert method(said).maps.shape == (len(said.answer_ids), 4, 4)


def test_a_llava_hf_model_needs_its_tokenizer(theirs, picture):
    with pytest.raises(ValueError, match="pass tokenizer"):
        answer_maps(theirs, picture, QUESTION)
