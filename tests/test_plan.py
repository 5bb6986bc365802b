"""plan.py: the numbers of the reference, what fits, and what is said of what does not."""

import json
import re
import shlex
from dataclasses import replace

import pytest
import torch

from minillava.cli import build_parser
from minillava.config import DATA, PRESETS
from minillava.memory import GB, GPUS, Gpu
from minillava.plan import MIXTURE, alternatives, named, plan_stage, this_machine
from minillava.training import CACHE_BYTES


def planned(options, preset="llava-1.5-7b", stage="stage2", **changes):
    """The plan of options as a plan prints them."""
    words = shlex.split(options)
    values = dict(zip(words, [*words[1:], ""], strict=True))
    return plan_stage(
        preset,
        values.get("--stage", stage),
        values["--gpu"],
        int(values["--devices"]),
        int(values.get("--nodes", 1)),
        values["--strategy"],
        "--activation-checkpointing" in values,
        int(values["--device-batch"]),
        **changes,
    )


@pytest.mark.parametrize(
    ("preset", "stage", "steps", "hours", "theirs"),
    [
        ("llava-1.5-7b", "stage1", 2181, 2.1, 0.30),
        ("llava-1.5-7b", "stage2", 5198, 5.1, 0.26),
        ("llava-1.5-13b", "stage1", 2181, 4.0, 0.36),
        ("llava-1.5-13b", "stage2", 5198, 9.9, 0.25),
    ],
)
def test_eight_a100_at_half_of_their_peak(preset, stage, steps, hours, theirs):
    """Hours, and the MFU that LLaVA's own hours imply: computed apart from this code, from the formulas."""
    plan = plan_stage(preset, stage)
    assert plan.fits and plan.steps == steps
    assert (round(plan.hours, 1), round(plan.implied_mfu, 2)) == (hours, theirs)
    assert plan_stage(preset, stage, mfu=0.25).hours == 2 * plan.hours
    assert plan_stage(preset, stage, nodes=2).hours == plan.hours / 2


def test_disk_by_hand():
    plan = plan_stage("llava-1.5-7b", "stage2")
    trained = 20_979_712 + 6_738_939_904
    assert plan.checkpoint == 12 * trained  # float32, and AdamW's two averages
    assert plan.result == 2 * (trained + 303_507_456)  # a llava-hf folder in bfloat16
    assert plan.disk == 2 * plan.checkpoint + plan.result
    assert plan_stage("llava-1.5-7b", "stage1").result == 2 * 20_979_712
    adapters = 319_815_680 + 20_979_712
    assert plan_stage("llava-1.5-7b", "stage2-lora").result == plan.result + 2 * adapters


def test_the_passes_make_the_batch_and_one_more_sample_would_not_fit():
    plan = plan_stage("llava-1.5-13b", "stage2")
    assert plan.setup.strategy == "fsdp2" and plan_stage("llava-1.5-13b", "stage1").setup.strategy == "ddp"
    assert plan.setup.micro_batch * plan.passes * 8 == 128
    assert not plan_stage("llava-1.5-13b", "stage2", micro_batch=2 * plan.setup.micro_batch).fits
    again = plan_stage("llava-1.5-13b", "stage2", checkpointing=True)
    assert again.setup.micro_batch > plan.setup.micro_batch
    assert again.hours == plan.hours and again.flops.recomputed > 0  # at one MFU, which counts no work twice


REFUSED = [
    {"micro_batch": 16},
    {"strategy": "ddp"},
    {"devices": 1},
    {"gpu": "rtx-3090"},
    {"gpu": "a100-40gb", "devices": 2},
]


@pytest.mark.parametrize("changes", REFUSED, ids=str)
@pytest.mark.parametrize("preset", ["llava-1.5-7b", "llava-1.5-13b"])
def test_what_cannot_fit_is_refused_and_what_is_said_to_fit_does(preset, changes):
    plan = plan_stage(preset, "stage2", **changes)
    assert not plan.fits
    with pytest.raises(ValueError) as refused:
        plan.raise_if_too_large()
    sentence = str(refused.value)
    assert re.match(rf"{preset} stage2 needs [\d.]+ GB on each device, where there are [\d.]+ ", sentence)
    others = sentence.removesuffix(".").split("what would fit: ")[1].split("; or ")
    assert others == list(alternatives(plan))
    for other in others:
        assert planned(other, preset, work=MIXTURE).fits, other


def test_the_same_devices_come_first():
    crowded = plan_stage("llava-1.5-7b", "stage2", micro_batch=16)
    (other,) = alternatives(crowded)
    assert "--gpu a100-80gb --devices 8 --strategy fsdp2" in other and "checkpointing" not in other
    (other,) = alternatives(plan_stage("llava-1.5-7b", "stage2", gpu="a100-40gb", micro_batch=16))
    assert "--gpu a100-40gb --devices 8 --strategy fsdp2" in other


def test_a_device_that_is_in_no_table():
    plan = plan_stage("llava-1.5-13b", "stage1", Gpu("mine", GB, 1e12, 1e12, "", runtime=0), devices=1)
    assert not plan.fits
    assert [other.split()[1] for other in alternatives(plan)] == ["a100-40gb"]  # more of the same are no help
    short = replace(MIXTURE, length=100, text_length=100, longest=512)
    odd = plan_stage("tiny", "stage1", Gpu("mine", 1000, 1e12, 1e12, "", runtime=0), devices=1, work=short)
    assert next(alternatives(odd)).startswith("--gpu rtx-")


def test_a_preset_that_is_in_no_table():
    mine = replace(PRESETS["llava-1.5-7b"], name="mine")
    plan = plan_stage(mine, "stage2", "rtx-3090", devices=1)
    assert plan.reported is None and plan.to_dict()["preset"] == "mine"
    with pytest.raises(ValueError, match="^mine stage2 needs .* what would fit: "):
        plan.raise_if_too_large()
    crowded = plan_stage(mine, "stage2", "a100-80gb", devices=1)
    assert any(other.startswith("--stage stage2-lora") for other in alternatives(crowded))


def test_this_machine_is_there_once():
    with pytest.raises(ValueError, match="one device, whose memory is there once, not 8"):
        plan_stage("tiny", "stage2", "cpu", devices=8)
    small = replace(this_machine(64, 1), memory=GB)
    others = list(alternatives(plan_stage("llava-1.5-7b", "stage1", small, devices=1)))
    assert others and not any("--gpu cpu" in other for other in others)
    assert named("CPU").name == "cpu" and named("A100-80GB") is GPUS["a100-80gb"]


def test_llavas_hours_are_told_of_its_own_samples_alone():
    """Another number or length of samples is other work, of which they say nothing."""
    assert plan_stage("llava-1.5-7b", "stage2", work=MIXTURE).implied_mfu is not None
    for changes in ({"samples": 1000}, {"work": replace(MIXTURE, length=600)}):
        other = plan_stage("llava-1.5-7b", "stage2", **changes)
        assert other.implied_mfu is None and "LLaVA's" not in str(other)


def test_samples_and_lengths_are_what_time_is_made_of():
    whole = plan_stage("llava-1.5-7b", "stage2")
    half = plan_stage("llava-1.5-7b", "stage2", samples=665_298 // 2)
    assert half.hours == pytest.approx(whole.hours / 2, rel=1e-4) and half.steps == 2599
    assert (whole.workload.with_picture, whole.workload.text_only) == (624_610, 40_688)
    science = plan_stage("llava-1.5-7b", "scienceqa")
    assert science.steps == 1200 and science.workload.text_only > science.workload.with_picture
    again = plan_stage("llava-1.5-7b", "scienceqa", work=whole.workload.resized(12_726))
    assert again.hours == pytest.approx(whole.hours * 12 * 12_726 / 665_298, rel=1e-3)
    assert science.hours < again.hours


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_tiny_on_this_machine(stage):
    torch.set_num_threads(1)
    plan = plan_stage("tiny", stage, this_machine(256, 3), devices=1)
    assert plan.fits and plan.reported is None and plan.implied_mfu is None
    assert 64 < plan.workload.length <= plan.workload.longest <= 512  # 64 patches and some words
    samples = plan.workload.with_picture + plan.workload.text_only
    assert samples == plan.stage.samples and 0 < plan.hours < 24
    assert "stage" in str(plan) and json.loads(json.dumps(plan.to_dict()))["steps"] == plan.steps


def test_the_page_adds_up():
    plan = plan_stage("llava-1.5-7b", "stage2")
    page = str(plan)
    printed = dict(re.findall(r"^  (\w+) +([\d.]+)", page, re.M))
    parts = [float(printed[name]) for name in vars(plan.memory) if name in printed]
    assert sum(parts) == pytest.approx(float(printed["together"]), abs=0.05)
    assert float(printed["room"]) == GPUS["a100-80gb"].memory / GB
    assert "10 hours on 8 x a100-40gb, which is 26% MFU" in page and "5198 (156 of warm-up)" in page
    found = json.loads(json.dumps(plan.to_dict()))
    assert found["memory"]["peak"] == plan.memory.peak and found["setup"]["gpu"]["name"] == "a100-80gb"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu": "a100"}, "GPUs a100-40gb, .*, and cpu is this machine, not a100"),
        ({"stage": "stage3"}, "has the stages"),
        ({"devices": 0}, "at least one device"),
        ({"mfu": 50}, r"MFU in \(0, 1\], not 8, 1, 50"),
        ({"devices": 3}, "a batch of 128, which 3 devices"),
        ({"micro_batch": 7}, "with 7 samples"),
        ({"micro_batch": 0}, "micro_batch as a positive number, not 0"),
        ({"micro_batch": -4}, "micro_batch as a positive number, not -4"),
        ({"samples": 0}, "samples as a positive number, not 0"),
        ({"samples": -1}, "samples as a positive number, not -1"),
        ({"work": replace(MIXTURE, longest=4096)}, "cuts samples at 2048 positions, .* cannot have 4096"),
        ({"work": replace(MIXTURE, length=100)}, "takes 576 positions: samples with one cannot have 100 "),
        ({"stage": "stage1", "strategy": "fsdp2"}, "use ddp"),
        ({"strategy": "zero3"}, "A strategy is auto, ddp, fsdp2, not zero3"),
    ],
    ids=str,
)
def test_what_there_is_not(options, message):
    with pytest.raises(ValueError, match=message):
        plan_stage("llava-1.5-7b", **({"stage": "stage2"} | options))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": -5}, "with a picture cannot have -5 positions"),
        ({"length": 3000}, "with a picture cannot have 3000 positions on average where the longest has 2048"),
        ({"text_length": 0}, "without cannot have 0 positions"),
        ({"longest": 0}, "where the longest has 0"),
        ({"with_picture": -1}, "cannot be -1 samples with a picture"),
        ({"with_picture": 0, "text_only": 0}, "cannot be 0 samples"),
    ],
    ids=str,
)
def test_no_samples_are_like_that(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(MIXTURE, **changes)


@pytest.mark.parametrize("page", ["README.md", "data/README.md"])
def test_the_commands_that_a_page_gives_for_a_7b_fit_on_its_node(page):
    text = re.sub(r"\\\n", " ", (DATA.parent / page).read_text())
    lines = re.findall(r"^minillava (train .*--preset llava-1.5-7b.*)$", text, re.M)
    assert [line.split()[1] for line in lines] == ["stage1", "stage2"]
    for line in lines:
        args = build_parser().parse_args(shlex.split(line))
        batch = args.device_batch or PRESETS[args.preset].stage(args.stage).batch_size // args.devices
        plan = plan_stage(
            args.preset,
            args.stage,
            "a100-80gb",
            args.devices,
            checkpointing=args.activation_checkpointing,
            compiled=args.compile,
            micro_batch=batch,
        )
        plan.raise_if_too_large()


def test_features_are_kept_only_where_pictures_come_again():
    once, again = (plan_stage("llava-1.5-7b", stage) for stage in ("stage1", "scienceqa"))
    assert once.stage.epochs == 1 and once.memory.cache == 0
    assert again.stage.epochs > 1 and again.memory.cache == CACHE_BYTES
