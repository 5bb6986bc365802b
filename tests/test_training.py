"""The stages: what moves, what is saved, and that nothing is lost."""

import csv
import logging
import math
from dataclasses import replace

import pytest
import torch
from helpers import captions, pictures_and_texts, png

from minillava import checkpoints, training
from minillava.config import PRESETS
from minillava.data import Collator, InstructionData, InstructionDataset
from minillava.optimization import cosine_with_warmup, freeze, parameter_groups
from minillava.training import FeatureCache, Stage, split_batch, train_stage

STAGES = {
    name: replace(stage, batch_size=2, max_length=512) for name, stage in PRESETS["tiny"].stages.items()
}


@pytest.fixture
def records(picture):
    return pictures_and_texts(picture)


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("stage", "moving"),
    [
        ("stage1", {"multi_modal_projector"}),
        ("stage2", {"multi_modal_projector", "language_model"}),
    ],
)
def test_one_step_moves_exactly_what_the_stage_trains(make_model, records, tmp_path, stage, moving):
    model = make_model()
    before = snapshot(model)
    data = captions(records) if stage == "stage1" else records
    # Two steps: the schedule starts at a learning rate of 0.
    train_stage(model, STAGES[stage], data, tmp_path, max_steps=2, warmup_ratio=0.5)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    trained = {n for n in before if n.split(".")[0] in moving}
    unused = {n for n in trained - moved if "embed_tokens" not in n and "lm_head" not in n}
    assert moved <= trained and not unused


def test_freeze_names_what_trains(make_model):
    model = make_model()
    names = freeze(model, STAGES["stage1"])
    assert set(names) == {f"multi_modal_projector.linear_{i}.{w}" for i in (1, 2) for w in ("weight", "bias")}
    assert not any(n.startswith("vision_tower") for n in freeze(model, STAGES["stage2"]))


def test_the_projector_may_have_its_own_rate_and_norms_do_not_decay(make_model):
    model = make_model()
    stage = replace(STAGES["stage2"], projector_learning_rate=2e-5, weight_decay=0.1)
    freeze(model, stage)
    groups = parameter_groups(model, stage)
    by = {(g["lr"], g["weight_decay"]): g["params"] for g in groups}
    rate = stage.learning_rate
    assert set(by) == {(2e-5, 0.1), (2e-5, 0.0), (rate, 0.1), (rate, 0.0)}
    assert all(p.ndim == 1 for (_, decay), ps in by.items() for p in ps if not decay)


@pytest.mark.parametrize("rate", [None, 0.0])
def test_a_projector_rate_of_0_is_not_none(make_model, rate):
    model, stage = make_model(), replace(STAGES["stage2"], projector_learning_rate=rate)
    freeze(model, stage)
    rates = {id(p): g["lr"] for g in parameter_groups(model, stage) for p in g["params"]}
    wanted = stage.learning_rate if rate is None else 0.0
    assert {rates[id(p)] for p in model.multi_modal_projector.parameters()} == {wanted}


@pytest.mark.parametrize("off", [None, 0.0])
def test_gradients_may_go_unclipped(make_model, records, tmp_path, off):
    def trained(name, **changes):
        model = make_model()
        options = {"max_steps": 3, "warmup_ratio": 0.3, **changes}
        train_stage(model, STAGES["stage1"], captions(records), tmp_path / name, **options)
        return model.multi_modal_projector.linear_1.weight

    free = trained("free", max_grad_norm=off)
    assert torch.equal(free, trained("wide", max_grad_norm=1e9))
    assert not torch.equal(free, trained("tight", max_grad_norm=1e-9))


@pytest.mark.parametrize("aspect", ["square", "pad"])
def test_a_trained_model_sees_pictures_as_its_stage_did(make_model, records, tmp_path, aspect):
    model = make_model()
    model.image_processor.do_pad = aspect != "pad"
    train_stage(model, STAGES["stage2"], records, tmp_path, max_steps=1, aspect=aspect)
    assert model.aspect == checkpoints.load(tmp_path / "stage2" / "model").aspect == aspect


def test_the_schedule_is_cosine_after_a_linear_warmup():
    rates = [cosine_with_warmup(step, 3, 100) for step in range(101)]
    assert rates[0] == 0 and rates[3] == 1 and rates[100] == pytest.approx(0)
    assert rates[1] == pytest.approx(1 / 3)
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_step_counts_are_the_papers():
    stages = PRESETS["llava-1.5-7b"].stages
    assert (stages["stage1"].steps(), stages["stage1"].warmup_steps()) == (2181, 66)
    assert (stages["stage2"].steps(), stages["stage2"].warmup_steps()) == (5198, 156)


def test_cached_features_give_the_same_loss(make_model, records):
    model = make_model()
    stage = STAGES["stage2"]
    data = InstructionDataset(
        records, model.tokenizer, "v1", "pad", model.config.vision_config.image_size, model.num_image_tokens
    )
    batch = Collator(model.tokenizer.pad_token_id)([data[i] for i in (0, 3, 6)])
    module = Stage(model, stage, 1, FeatureCache())
    plain = Stage(model, stage, 1, FeatureCache(limit=0))
    first, second = module.loss(batch), module.loss(batch)
    assert module.cache.used > 0 and plain.cache.used == 0
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, plain.loss(batch), rtol=0, atol=1e-6)


def test_torchs_settings_are_those_from_before(make_model, records, tmp_path):
    from torch.utils import deterministic

    assert not torch.are_deterministic_algorithms_enabled() and deterministic.fill_uninitialized_memory
    train_stage(make_model(), STAGES["stage1"], captions(records), tmp_path, max_steps=1)
    assert not torch.are_deterministic_algorithms_enabled() and deterministic.fill_uninitialized_memory


def test_a_training_that_stops_leaves_the_model_as_any_other(make_model, records, tmp_path):
    model = make_model().bfloat16()
    with torch.no_grad():
        model.multi_modal_projector.linear_2.bias.fill_(float("nan"))
    options = {"precision": "bf16-mixed", "activation_checkpointing": True}
    with pytest.raises(FloatingPointError):
        train_stage(model, STAGES["stage2"], records, tmp_path, max_steps=2, **options)
    assert not model.training and not model.language_model.is_gradient_checkpointing
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_loss_that_is_not_a_number_stops_with_the_samples(make_model, records, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.multi_modal_projector.linear_2.bias.fill_(float("nan"))
    message = r"loss is nan at step 1, with the samples r\d, r\d.*none yet"
    with pytest.raises(FloatingPointError, match=message):
        train_stage(model, STAGES["stage1"], captions(records), tmp_path, max_steps=2)


def test_a_gradient_that_is_not_a_number_stops_before_it_reaches_the_weights(make_model, records, tmp_path):
    """The loss of step 3 is a number, its gradient not: the weights, and those on the disk, stay good."""
    model, gradients = make_model(), []

    def spoil(gradient):
        gradients.append(gradient)
        return gradient * float("nan") if len(gradients) == 3 else gradient

    freeze(model, STAGES["stage1"])
    model.multi_modal_projector.linear_2.weight.register_hook(spoil)
    message = r"gradient's norm is nan at step 3, with the samples r\d, r\d.*last.ckpt"
    with pytest.raises(FloatingPointError, match=message):
        train_stage(model, STAGES["stage1"], captions(records), tmp_path, max_steps=3, save_every=1)
    saved = torch.load(tmp_path / "stage1" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 and len(gradients) == 3
    for tensor in [*saved["state_dict"].values(), *model.parameters()]:
        assert tensor.isfinite().all()


def test_activation_checkpointing_changes_no_bit(make_model, records, tmp_path):
    models = make_model(), make_model()
    for model, again, folder in ((models[0], False, "kept"), (models[1], True, "again")):
        calls, mlp = [], model.language_model.model.layers[0].mlp
        mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        options = {"max_steps": 3, "activation_checkpointing": again}
        train_stage(model, STAGES["stage2"], records, tmp_path / folder, **options)
        assert len(calls) == (6 if again else 3)
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name]), name


def test_a_batch_that_does_not_divide_is_refused(make_model, records, tmp_path):
    with pytest.raises(ValueError, match="device_batch"):
        train_stage(make_model(), STAGES["stage1"], records, tmp_path, batch_size=6, device_batch=4)


def test_accumulated_passes_equal_one_pass(make_model, records, tmp_path):
    """Equal samples: the mean of the passes' means is the mean over the batch."""
    models = make_model(), make_model()
    data = captions(records)
    for model, passes, folder in ((models[0], 4, "one"), (models[1], 2, "two")):
        train_stage(
            model, STAGES["stage1"], data, tmp_path / folder, batch_size=4, device_batch=passes,
            max_steps=1, warmup_ratio=0.0,
        )  # fmt: skip
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_stage_leaves_its_curve_its_answers_and_its_weights(make_model, records, picture, tmp_path):
    model = make_model()
    result = train_stage(
        model,
        STAGES["stage2"],
        records,
        tmp_path,
        validation=records[:2],
        probes=[(picture, "What is there?")],
        max_steps=4,
        validations=2,
    )
    assert result.steps == 4
    assert [len(result.curve[split][0]) for split in ("train", "val")] == [4, 2]
    assert all(math.isfinite(loss) for loss in result.curve["val"][1])
    rows = list(csv.DictReader((tmp_path / "stage2" / "curve.csv").open()))
    assert [row["split"] for row in rows].count("train") == 4
    assert (tmp_path / "stage2" / "generations.txt").read_text().count("What is there?") == 2
    again = checkpoints.load(tmp_path / "stage2" / "model")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("part", ["pytorch", "fabric"])
def test_lightning_recommends_no_services(part):
    log = logging.getLogger(f"lightning.{part}.utilities.rank_zero")
    tip, other = (
        log.makeRecord(log.name, logging.INFO, "", 0, message, (), None)
        for message in ("💡 Tip: For seamless cloud uploads, try installing ...", "GPU available: False")
    )
    assert not log.filter(tip) and log.filter(other)


def test_a_stage_does_not_warn_of_lightnings_own_code(make_model, records, tmp_path, recwarn):
    train_stage(make_model(), STAGES["stage1"], captions(records), tmp_path, max_steps=1)
    assert not [warning for warning in recwarn if "LeafSpec" in str(warning.message)]


def test_worker_processes_prepare_the_batches_of_both_loaders(make_model, records, tmp_path, monkeypatch):
    workers = []

    class Watched(InstructionData):
        def train_dataloader(self):
            workers.append(super().train_dataloader().num_workers)
            return super().train_dataloader()

        def val_dataloader(self):
            workers.append(super().val_dataloader().num_workers)
            return super().val_dataloader()

    monkeypatch.setattr(training, "InstructionData", Watched)
    options = {"max_steps": 1, "validation": records[:2], "validations": 1}
    train_stage(make_model(), STAGES["stage2"], records, tmp_path, num_workers=1, **options)
    assert workers == [1, 1]


def test_mixed_precision_keeps_small_steps_that_bfloat16_would_lose(make_model, records, tmp_path):
    """Thirty steps of 2e-5 each: too small for bfloat16 one by one, not when they add up in float32."""
    moved = {}
    options = {"max_steps": 30, "epochs": 99, "learning_rate": 4e-5, "warmup_ratio": 0.0, "save_every": 30}
    for precision in ("bf16-true", "bf16-mixed"):
        model = make_model().bfloat16()
        weight = model.language_model.model.layers[0].mlp.up_proj.weight
        with torch.no_grad():
            weight.copy_(torch.full_like(weight, 0.03))
        train_stage(model, STAGES["stage2"], records, tmp_path / precision, precision=precision, **options)
        moved[precision] = (weight != weight.new_tensor(0.03)).float().mean().item()
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        again = checkpoints.load(tmp_path / precision / "stage2" / "model")
        assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    saved = torch.load(tmp_path / "bf16-mixed" / "stage2" / "last.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert moved["bf16-true"] == 0 and moved["bf16-mixed"] > 0.5


@pytest.mark.parametrize(
    ("device_batch", "devices", "expected"),
    [(None, 1, (128, 1)), (None, 8, (16, 1)), (16, 8, (16, 1)), (16, 1, (16, 8)), (4, 16, (4, 2))],
)
def test_the_global_batch_is_the_recipes_whatever_it_runs_on(device_batch, devices, expected):
    assert split_batch(PRESETS["llava-1.5-7b"].stages["stage2"], device_batch, devices) == expected


@pytest.mark.parametrize("devices", [3, 6, 256])
def test_devices_that_cannot_share_the_batch_are_told_which_can(devices):
    with pytest.raises(ValueError, match="take one of 1, 2, 4, 8, 16, 32, 64, 128"):
        split_batch(PRESETS["llava-1.5-7b"].stages["stage2"], None, devices)


@pytest.mark.parametrize("name", ["max_steps", "save_every", "device_batch"])
@pytest.mark.parametrize("count", [0, -1])
def test_counts_below_one_are_refused(make_model, records, tmp_path, name, count):
    with pytest.raises(ValueError, match=f"stage1: expected at least 1, not {{'{name}': {count}}}"):
        train_stage(make_model(), STAGES["stage1"], captions(records), tmp_path, **{name: count})


@pytest.mark.parametrize(("device_batch", "devices"), [(3, 1), (16, 16), (None, 3), (None, 256)])
def test_devices_that_do_not_make_the_batch_are_refused(device_batch, devices):
    with pytest.raises(ValueError, match=f"batch of 128, which {devices} devices"):
        split_batch(PRESETS["llava-1.5-7b"].stages["stage2"], device_batch, devices)


def test_passes_that_do_not_fill_the_last_step_of_an_epoch_are_in_its_loss(make_model, records, tmp_path):
    """7 records in passes of 2, two passes a step: each epoch's second step has what is left."""
    options = {"batch_size": 4, "device_batch": 2, "epochs": 2}
    result = train_stage(make_model(), STAGES["stage2"], records[:7], tmp_path, **options)
    assert result.curve["train"][0] == [1, 2, 3, 4] and result.steps == 4


def test_a_picture_that_breaks_midway_stops_the_stage_or_is_counted(make_model, records, tmp_path):
    (tmp_path / "good.png").write_bytes(png(size=(30, 20)))
    (tmp_path / "bad.png").write_bytes(png(size=(30, 20))[:60])
    turns = captions(records)[0]["conversations"]
    files = ["good.png", "good.png", "bad.png", "good.png"]
    broken = [{"id": f"r{i}", "image": name, "conversations": turns} for i, name in enumerate(files)]
    options = {"image_root": tmp_path, "epochs": 2}
    with pytest.raises(ValueError, match=r"bad.png of record 2 \(id 'r2'\)"):
        train_stage(make_model(), STAGES["stage1"], broken, tmp_path / "stops", **options)
    with pytest.raises(ValueError, match=r"^\S+bad.png of record 2 \(id 'r2'\)[^\n]*$"):  # no traceback
        train_stage(make_model(), STAGES["stage1"], broken, tmp_path / "worker", num_workers=1, **options)
    result = train_stage(
        make_model(), STAGES["stage1"], broken, tmp_path / "goes", skip_broken=True, num_workers=1, **options
    )
    assert result.steps == 4 and result.skipped == 2  # once in each of two epochs
    lines = (result.folder / "skipped.txt").read_text().splitlines()
    assert len(lines) == 2 and all("bad.png of record 2 (id 'r2')" in line for line in lines)
    assert not (tmp_path / "stops" / "stage1" / "skipped.txt").exists()
