"""The benchmarks' own logic: intervals, turns, and that both sides do the same work."""

from dataclasses import replace
from pathlib import Path

import gpu
import pytest
import techniques
import torch
from versus import costs, hf, measure, table
from versus.timing import Ratio, check_same_loss, interleaved, ratio, ratio_of_runs
from versus.work import AXES, Work, check_same_batches, grown, grown_batch

from minillava.config import IGNORE_INDEX, PRESETS
from minillava.memory import GB, GPUS

BENCHMARKS = str(Path(__file__).resolve().parent.parent / "benchmarks")


def test_a_ratio_is_of_medians_and_its_interval_holds_it():
    ours = [1.0, 1.1, 0.9, 1.0, 5.0]  # one round that the machine disturbed
    found = ratio([2 * value for value in ours], ours)
    assert found.value == found.low == found.high == 2.0  # disturbed together: in pairs it does not show
    noisy = ratio([2.0, 2.4, 1.8, 2.1, 1.9, 2.2], [1.0, 0.9, 1.2, 1.1, 1.0, 1.05])
    assert noisy.low < noisy.value < noisy.high
    assert noisy.value == pytest.approx(2.05 / 1.025)
    assert noisy == ratio([2.0, 2.4, 1.8, 2.1, 1.9, 2.2], [1.0, 0.9, 1.2, 1.1, 1.0, 1.05])
    with pytest.raises(ValueError, match="not 2 and 1"):
        ratio([1.0, 2.0], [1.0])


def test_steps_of_one_run_are_not_drawn_apart():
    peer = [[2 + run / 4] * 20 for run in range(9)]  # runs differ, the steps of one do not
    ours = [[1.0] * 20] * 9
    found, pooled = ratio_of_runs(peer, ours), ratio(sum(peer, []), sum(ours, []))
    assert found.value == pooled.value == 3.0
    assert pooled.high - pooled.low < found.high - found.low


def test_sides_take_turns_and_the_order_turns_around():
    log, now = [], iter(range(100))
    sides = {name: lambda name=name: log.append(name) for name in "ab"}
    seconds = interleaved(sides, rounds=2, warmup=1, clock=lambda: next(now))
    assert log == ["a", "b", "b", "a", "a", "b"]
    assert seconds == {"a": [1, 1], "b": [1, 1]}


def test_runs_that_part_are_not_compared():
    assert check_same_loss([3.0, 2.0], [3.0, 2.0005], 1e-3) == pytest.approx(5e-4)
    with pytest.raises(AssertionError, match="At step 1 our loss is 2.000000 and the peer's 2.100000"):
        check_same_loss([3.0, 2.0], [3.0, 2.1], 1e-3)
    with pytest.raises(AssertionError, match="2 steps of ours, but 1"):
        check_same_loss([3.0, 2.0], [3.0], 1e-3)


@pytest.fixture(scope="module", params=["stage1", "stage2"])
def work(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILLAVA_CACHE", str(tmp_path_factory.mktemp("cache")))
        work = Work.of(request.param, samples=8, batch=2)
        assert len(work.records) == 8  # drawn now
        yield work


def test_the_peers_collator_makes_our_batch(work):
    data = hf.opened(work.records.select(work.order))
    for index, batch in enumerate(work.batches(2)):
        rows = [data[i] for i in range(2 * index, 2 * index + 2)]
        check_same_batches(batch, work.collator(rows))
    batch["labels"][0, -1] = 3
    with pytest.raises(AssertionError, match="differ in labels"):
        check_same_batches(batch, work.collator(rows))


def test_both_trainers_come_to_the_same_losses(work):
    (stamps, ours), (_, peer) = measure.run_ours(work, 3), measure.run_peer(work, 3)
    check_same_loss(ours, peer, 1e-4)  # raises where they part
    assert len(measure.periods(stamps)) == 1
    assert max(ours) > 0


def test_the_optimizers_of_a_model_step_are_fused_and_at_the_stages_rate(work, monkeypatch):
    made = []

    class Kept(torch.optim.AdamW):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(torch.optim, "AdamW", Kept)
    ours, peer, _ = measure.both_steps(work)
    assert len(made) == 2
    for group in (group for optimizer in made for group in optimizer.param_groups):
        assert group["fused"] and group["lr"] == work.stage.learning_rate
    batches = work.batches(3)
    losses = [(ours(batch), peer(batch)) for batch in batches]
    check_same_loss(*zip(*losses, strict=True), measure.TOLERANCE)


def test_a_side_is_credited_with_what_it_computes(work):
    found = measure.model_step(work, rounds=1)
    executed, useful = found["executed_flops_per_step"], found["useful_flops_per_step"]
    assert executed["ours, features kept"] < executed["ours"] < executed["peer"]
    assert executed["ours"] < useful
    for side, share in found["percent_of_peak"].items():
        rate = executed[side] / found["median_seconds"][side]
        assert share == pytest.approx(100 * rate / found["matmul_peak_flops"])
    assert len(found["seconds"]["matrix product"]) == 1  # in the rounds, not after them
    page = table.peak({"stage": {"step": found}})
    assert all(f"{executed[side] / 1e9:.1f}" in page for side in ("peer", "ours"))


def test_a_products_flops_are_counted():
    a, b = torch.randn(2, 3), torch.randn(3, 5)
    assert measure.executed_flops(lambda: a @ b) == 2 * 2 * 3 * 5
    assert measure.executed_flops(lambda: a[None] @ b[None]) == 0  # attention's are batched


def test_a_process_is_not_charged_for_the_memory_of_the_one_that_started_it():
    held = b"1" * (900 << 20)
    script = "from versus.costs import peak_rss; print(peak_rss())"
    found = costs.fresh("-c", f"import sys; sys.path.insert(0, {BENCHMARKS!r}); {script}")
    assert 50 << 20 < found < len(held) < costs.peak_rss()


def test_records_grow_along_their_axis_alone(work):
    small = grown_batch(work, "pictures", 1, size=2)
    patches = work.ours.num_image_tokens
    for axis in AXES:
        record, batch = grown(axis, 4), grown_batch(work, axis, 4, size=2)
        is_image = batch["input_ids"] == work.ours.config.image_token_id
        assert len(batch["pixel_values"]) == 2 * record["pictures"] == is_image.sum() / patches
        assert batch["input_ids"].shape[1] > small["input_ids"].shape[1]
    supervised = [(b["labels"] != IGNORE_INDEX).sum() for b in (small, batch)]
    assert 3 < supervised[1] / supervised[0] <= 4  # the longer answer


def test_a_table_says_whether_a_goal_is_reached():
    assert table.verdict(Ratio(1.6, 1.2, 1.8), 1.5) == "1.60 (1.20-1.80) ✓ ≥ 1.5"
    assert "✗" in table.verdict(Ratio(1.6, 1.05, 1.8), 1.5)
    assert "✗" in table.verdict(Ratio(1.4, 1.3, 1.5), 1.5)


def test_without_a_gpu_the_gpu_benchmark_says_so(monkeypatch):
    monkeypatch.setattr(gpu, "device", lambda: "cpu")
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="No GPU was found, so nothing was measured"):
        gpu.main()


def test_weights_are_drawn_alike_whatever_the_side_calls_them(make_config):
    from transformers import LlavaForConditionalGeneration

    from minillava.model import MiniLlava

    config = make_config()
    ours, peer = MiniLlava(config), LlavaForConditionalGeneration(config)
    batch = gpu.samples(config, 24, 2, torch.float32)
    batch = {name: torch.stack([sample[name] for sample in batch]) for name in batch[0]}
    for model in (ours, peer):
        gpu.draw(model.eval())
    torch.testing.assert_close(ours(**batch).loss, peer(**batch).loss, rtol=0, atol=1e-5)


def test_every_technique_can_be_taken_away_and_the_loss_stays(work):
    found = techniques.ways(work)
    assert {name for both in techniques.TECHNIQUES.values() for name in both} == set(found)
    before = {name: weight.clone() for name, weight in work.ours.named_parameters()}
    losses = {name: run() for name, run in found.items()}
    assert losses == pytest.approx(dict.fromkeys(found, losses["all"]), abs=techniques.TOLERANCE)
    assert all(torch.equal(before[name], weight) for name, weight in work.ours.named_parameters())
    computed = {name: measure.executed_flops(run) for name, run in found.items()}
    for without, having in list(techniques.TECHNIQUES.values())[2:5]:
        assert computed[without] > computed[having]
    assert computed["padded"] >= computed["all"] and computed["repeated"] >= computed["all"]


def test_a_cards_peak_is_looked_up_by_its_whole_name(monkeypatch):
    monkeypatch.setattr(gpu, "device", lambda: "cuda")
    monkeypatch.setattr(gpu.costs, "matmul_peak", lambda *_, **__: 1.0)
    peaks = {
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA H200": 989e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA GeForce RTX 3090": 71e12,
        "NVIDIA H100 PCIe": None,
        "NVIDIA GeForce RTX 3090 Ti": None,
    }
    for name, peak in peaks.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        assert gpu.machine_peak(torch.bfloat16) == (name, 1.0, peak)
    assert set(gpu.CARDS.values()) == set(GPUS)


def test_a_pass_is_halved_until_it_fits_and_then_recomputes():
    stage = replace(PRESETS["llava-1.5-7b"].stages["stage2"], batch_size=4)
    found = {gb: gpu.affordable("llava-1.5-7b", stage, 820, gb * GB, "auto") for gb in (200, 150, 131, 128)}
    assert found == {200: (4, False), 150: (2, False), 131: (2, True), 128: (1, True)}  # 128: not even so
    assert gpu.affordable("llava-1.5-7b", stage, 820, 150 * GB, "fsdp2") == (4, False)


def test_the_gpus_table_says_what_was_used():
    run = {"fits": True, "pass": 2, "recomputed": True, "seconds": [[1.0, 1.0], [3.0]], "peak_bytes": 5e9}
    run |= {"tokens": 10, "flops": 1e12}
    page = gpu.rows({"stage2": {"ours": run, "peer": run | {"fits": False}}}, 4e12)
    assert "| transformers | 2 samples, layers computed again | does not fit |" in page
    assert "| minillava | 2 samples, layers computed again | 10 | 25.0 % | 5.0 GB |" in page
