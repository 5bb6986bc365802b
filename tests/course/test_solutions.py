"""The exercises' solutions do what the package does."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from minillava.config import PRESETS
from minillava.conversation import SYSTEM, encode, render_v1
from minillava.course import lesson01, lesson02, lesson03, lesson04, lesson05, lesson06, lesson10
from minillava.flops import sample_flops
from minillava.optimization import cosine_with_warmup, freeze
from minillava.plan import plan_stage
from minillava.projector import build_projector
from minillava.records import modality_length
from minillava.toybox import records
from minillava.toybox.scene import SIZE
from minillava.toybox.scenes import SCENES
from minillava.training import split_batch


def test_boxes_and_records_are_toyboxs():
    scene = records.scene("train", 3)
    boxes = [lesson01.normalized(thing.box, SIZE) for thing in scene.objects]
    assert boxes == [thing["bbox"] for thing in scene.instances()]
    record = records.record(SCENES, "detail", "train", 3)
    caption = record["conversations"][1]["value"]
    assert lesson01.caption_record(record["id"], record["image"], caption) == record


def test_the_guesser_is_right_as_often_as_its_answer_is():
    assert lesson01.majority(["a", "b", "b", "c"]) == 0.5


def test_what_tempts_is_not_there_though_its_parts_are():
    assert lesson01.tempting([("red", "star"), ("blue", "heart")]) == {("red", "heart"), ("blue", "star")}


def test_patches_are_those_of_clips_convolution():
    pixels, weight = torch.randn(3, 24, 24), torch.randn(5, 3, 6, 6)
    patches = lesson02.cut(pixels, 6)
    assert len(patches) == lesson02.image_tokens(24, 6)
    by_convolution = F.conv2d(pixels[None], weight, stride=6)[0].flatten(1).T
    assert_close(patches @ weight.flatten(1).T, by_convolution, atol=1e-4, rtol=1e-4)


def test_the_layer_is_the_one_that_the_tower_stops_after():
    assert list(range(25))[-2] == lesson02.layers()


def test_the_nearest_is_a_scaled_copy():
    others = torch.randn(6, 8)
    assert lesson02.nearest(3 * others[4], others) == 4


def test_the_projector_is_the_packages():
    projector, features = build_projector("mlp2x_gelu", 6, 10), torch.randn(4, 6)
    weights = [p.detach() for p in projector.parameters()]
    assert_close(lesson03.project(features, *weights), projector(features).detach())
    assert lesson03.parameters(6, 10) == sum(p.numel() for p in projector.parameters())


def test_the_splice_is_the_models(make_model):
    model = make_model()
    ids = torch.tensor([5, *[model.config.image_token_id] * 16, 7])
    patches = torch.randn(16, 64)
    table = model.language_model.get_input_embeddings().weight.detach()
    ours = lesson03.splice(ids, table.clone(), patches, model.config.image_token_id)
    assert_close(ours, model.splice(ids[None], patches[None])[0].detach())
    assert lesson03.rows() == 41 + (336 // 14) ** 2


def test_prompt_and_labels_are_the_encoders(tokenizer):
    pairs = [("What color is it?", "red"), ("Sure?", "yes")]
    turns = [{"from": f, "value": v} for pair in pairs for f, v in zip(("human", "gpt"), pair, strict=True)]
    text = lesson04.v1(SYSTEM, pairs)
    encoded = encode(turns, tokenizer, has_image=False)
    assert text == encoded.prompt
    tokens = tokenizer(text, return_offsets_mapping=True)
    ours = lesson04.labels(tokens.input_ids, tokens.offset_mapping, render_v1(turns)[1])
    assert ours == encoded.labels


def test_the_loss_is_the_models(make_model):
    model = make_model()
    ids = torch.randint(3, 50, (1, 9))
    labels = ids.clone()
    labels[:, :4] = -100
    output = model(ids, labels=labels)
    assert_close(lesson04.masked_loss(output.logits[0], labels[0]), output.loss)


def test_the_room_is_what_the_encoder_leaves(tokenizer):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a red ball left of it"}]
    whole = encode(turns, tokenizer)
    words = len(whole.input_ids) - 576 - whole.n_supervised
    for limit in (len(whole.input_ids) - 2, 576 + words, 300):
        kept = encode(turns, tokenizer, max_length=limit).n_supervised
        assert kept == lesson04.room(limit, 1, words)


def test_stage_1_trains_what_freeze_leaves(make_model):
    model = make_model()
    stage = PRESETS["tiny"].stages["stage1"]
    assert lesson05.trains([name for name, _ in model.named_parameters()]) == freeze(model, stage)


def test_the_rate_is_the_schedules():
    for step in range(41):
        assert math.isclose(lesson05.rate(step, 3, 40), cosine_with_warmup(step, 3, 40), abs_tol=1e-12)


def test_a_coins_toss_is_a_bit():
    assert math.isclose(lesson05.bits(math.log(2), 0, 1), 1)


def test_a_record_is_as_long_as_the_sampler_says():
    made = [records.instruction_record("train", index) for index in range(40)]
    assert {record["image"] is None for record in made} == {True, False}
    for record in made:
        published = {key: value for key, value in record.items() if value is not None}
        assert lesson06.length(published) == modality_length(record)


def test_passes_are_those_that_training_takes():
    stage = PRESETS["llava-1.5-7b"].stages["stage1"]
    assert lesson10.passes(256, 8, 16) == split_batch(stage, 16, 8)[1]
    for micro_batch in (24, 64):
        assert lesson10.passes(256, 8, micro_batch) is None
        with pytest.raises(ValueError, match="do not make"):
            split_batch(stage, micro_batch, 8)


def test_bytes_operations_and_hours_are_the_plans():
    plan = plan_stage("llava-1.5-7b", "stage1", devices=1, micro_batch=1)
    frozen = plan.size.total - plan.size.total_trainable
    memory = plan.memory
    held = memory.weights + memory.gradients + memory.optimizer
    copies = 2 * plan.size.total_trainable  # autocast's, in bfloat16
    assert lesson10.memory(plan.size.total_trainable, frozen) == held - copies
    layers = sample_flops(plan.shapes, 10, trains=plan.stage.trains).layers
    weights = plan.shapes.layers * plan.shapes.layer_weights
    assert lesson10.flops(weights, 10, trained=False) == layers
    assert math.isclose(lesson10.hours(plan.flops.model, 1, 312e12, 0.5), plan.hours)
