"""LoRA: what it adapts, what it leaves, and that folders of ours, of peft's and of the original's open.

Folders of the original are made here after what its training and its merge_lora_weights.py write; the
names of their tensors are those of llava/train/train.py and of peft on its model.
"""

import json
import sys

import pytest
import torch
from helpers import same
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from minillava import checkpoints, lora, weights
from minillava.config import PRESETS, LoraConfig

SMALL = LoraConfig(rank=4, alpha=8, dropout=0.0)
LAYERS = "self_attn.q self_attn.k self_attn.v self_attn.o mlp.gate mlp.up mlp.down".split()
TARGETS = {f"language_model.model.layers.{i}.{name}_proj" for i in range(2) for name in LAYERS}


@pytest.fixture
def base(make_model, tmp_path):
    """The folder of a LLaVA for adapters to sit on; in float64, so that 1e-5 is no matter of rounding."""
    return checkpoints.save(make_model().double(), tmp_path / "base")


@pytest.fixture
def adapted(base):
    """That model with adapters which change something, and with another projector."""
    model = checkpoints.load(base)
    lora.adapt(model, SMALL)
    torch.manual_seed(2)
    with torch.no_grad():
        for layer in lora.adapted(model).values():
            layer.lora_B["default"].weight.normal_(std=0.02)
        model.multi_modal_projector.linear_2.bias.normal_()
    return model


def logits(model) -> torch.Tensor:
    torch.manual_seed(1)
    ids = torch.randint(3, 360, (2, 40))
    ids[0, 3:19] = 360  # <image>
    pixels = torch.randn(1, 3, 16, 16).to(next(model.parameters()).dtype)
    return model(input_ids=ids, pixel_values=pixels).logits


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


# ── what is adapted ───────────────────────────────────────────────────────────────────────────


def test_adapters_sit_on_the_language_models_linear_layers_only(adapted):
    """As `find_all_linear_names`: no head and no embeddings, and the tower's q_proj stays bare."""
    assert lora.adapted(adapted).keys() == TARGETS
    shapes = {n: tuple(p.shape) for n, p in adapted.named_parameters() if ".lora_" in n}
    assert shapes["language_model.model.layers.0.mlp.up_proj.lora_A.default.weight"] == (4, 64)
    assert shapes["language_model.model.layers.0.mlp.up_proj.lora_B.default.weight"] == (172, 4)
    assert len(shapes) == 2 * len(TARGETS)


def test_fresh_adapters_change_nothing_and_their_seed_draws_them(base):
    models = [checkpoints.load(base) for _ in range(3)]
    before = logits(models[0])
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        lora.adapt(model, SMALL, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(models[0]), before)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_adapting_twice_is_refused(adapted):
    with pytest.raises(ValueError, match="adapters already"):
        lora.adapt(adapted, SMALL)


def test_without_peft_the_extra_is_named(make_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[lora\]"'):
        lora.adapt(make_model(), SMALL)


# ── merged equals unmerged ────────────────────────────────────────────────────────────────────


def test_merged_equals_unmerged(adapted, base):
    unmerged = logits(adapted)
    assert (unmerged - logits(checkpoints.load(base))).abs().max() > 0.1
    plain = checkpoints.load(base)
    lora.merge(adapted)
    close(logits(adapted), unmerged)
    assert adapted.state_dict().keys() == plain.state_dict().keys()
    assert all(p.requires_grad for p in adapted.language_model.parameters())
    lora.adapt(adapted, SMALL)  # as if it had never had any


def adapted_tiny(dtype):
    """(tiny-LLaVA's bases with adapters, a batch with a picture), both in `dtype`."""
    tiny = PRESETS["tiny"]
    model = checkpoints.from_bases(tiny.vision_tower, tiny.language_model, dtype=dtype)
    lora.adapt(model, tiny.stages["stage2-lora"].lora)
    torch.manual_seed(4)
    with torch.no_grad():
        for layer in lora.adapted(model).values():
            layer.lora_B["default"].weight.normal_(std=0.01)
    turns = [{"from": "human", "value": "<image>\nWhat is red?"}, {"from": "gpt", "value": "a ball"}]
    batch = model.prepare([turns], [[Image.new("RGB", (40, 30), "red")]])
    return model.eval(), batch | {"pixel_values": batch["pixel_values"].to(dtype)}


@torch.no_grad()
def test_merged_equals_unmerged_on_tiny():
    model, batch = adapted_tiny(torch.float64)
    unmerged = model(**batch).logits
    for layer in lora.adapted(model).values():
        layer.scaling["default"], scaling = 0.0, layer.scaling["default"]
    assert (model(**batch).logits - unmerged).abs().max() > 0.1
    for layer in lora.adapted(model).values():
        layer.scaling["default"] = scaling
    lora.merge(model)
    close(model(**batch).logits, unmerged)


@torch.no_grad()
def test_merged_equals_unmerged_on_tiny_in_float32_as_far_as_float32_goes():
    """W x + B (A x) and (W + B A) x round differently; logits in the teens carry that on by some 1e-4.

    So does float32 itself: beside the same merged weights in float64, the logits are off by as much.
    """
    model, batch = adapted_tiny(torch.float32)
    unmerged = model(**batch).logits
    lora.merge(model)
    merged = model(**batch).logits
    exact = model.double()(**batch | {"pixel_values": batch["pixel_values"].double()}).logits
    rounding, scale = (merged - exact).abs().max(), merged.abs().max()
    assert (merged - unmerged).abs().max() < 5 * rounding and rounding < 3e-5 * scale


def test_export_merges_for_transformers_and_leaves_the_model_as_it_is(adapted, tmp_path):
    unmerged = logits(adapted)
    folder = checkpoints.export(adapted, tmp_path / "export")
    theirs, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    close(logits(theirs.eval()), unmerged)
    close(logits(checkpoints.load(folder)), unmerged)
    assert lora.adapted(adapted).keys() == TARGETS


def test_tied_head_and_half_precision_merge_too(make_model, tmp_path):
    model = make_model(tied=True).bfloat16()
    lora.adapt(model, SMALL)
    with torch.no_grad():
        for layer in lora.adapted(model).values():
            layer.lora_B["default"].weight.normal_(std=0.02)
    again = checkpoints.load(checkpoints.export(model, tmp_path / "export"))
    lora.merge(model)
    assert same(model, again)
    assert again.language_model.lm_head.weight is again.language_model.model.embed_tokens.weight


# ── folders of adapters ───────────────────────────────────────────────────────────────────────


def test_our_folder_is_the_originals_and_loads(adapted, base, tmp_path):
    folder = checkpoints.save_adapters(adapted, tmp_path / "anything")
    assert {file.name for file in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "non_lora_trainables.bin",
    }
    names = load_file(folder / "adapter_model.safetensors").keys()
    assert {name.rpartition(".lora_")[0] for name in names} == {
        name.replace("language_model.", "base_model.model.") for name in TARGETS
    }
    projector = torch.load(folder / "non_lora_trainables.bin", weights_only=True)
    prefix = "base_model.model.model.mm_projector"
    assert projector.keys() == {f"{prefix}.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["bias"]) == (4, 8, "none")
    assert settings["base_model_name_or_path"] == str(base)
    close(logits(checkpoints.load(folder)), logits(adapted))
    assert weights.find_projector(folder) is None  # the one in it is half of what was trained


def test_peft_opens_our_folder_on_the_language_model(adapted, tmp_path):
    import peft

    folder = checkpoints.save_adapters(adapted, tmp_path / "adapter")
    bare = checkpoints.load(tmp_path / "base").language_model
    theirs = peft.PeftModel.from_pretrained(bare, str(folder)).eval()
    ids = torch.arange(3, 20)[None]
    close(theirs(ids).logits, adapted.language_model(ids).logits, 1e-6)


@pytest.mark.parametrize("stable", [False, True])
def test_adapters_trained_with_peft_on_transformers_llava(base, tmp_path, stable):
    """The tower's q_proj is adapted, some layers have their own alpha, the projector is whole."""
    import peft

    theirs = LlavaForConditionalGeneration.from_pretrained(base)
    settings = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        modules_to_save=["multi_modal_projector"],
        use_rslora=stable,
        alpha_pattern={r"layers\.1\.mlp\.down_proj": 32},
        base_model_name_or_path=str(base),
    )
    theirs = peft.get_peft_model(theirs, settings).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
            assert parameter.requires_grad == (".lora_" in name or "modules_to_save" in name)
    theirs.save_pretrained(tmp_path / "peft")
    ours = checkpoints.load(tmp_path / "peft")
    expected = logits(theirs)
    assert (expected - logits(checkpoints.load(base))).abs().max() > 0.1
    close(logits(ours), expected)


@pytest.fixture
def originals(adapted, tokenizer, tmp_path):
    """(folder as the original leaves it after a stage with LoRA, folder of its merge, the model)."""
    bases = tmp_path / "clip", tmp_path / "vicuna"
    plain = checkpoints.load(tmp_path / "base")
    plain.vision_tower.save_pretrained(bases[0])
    plain.language_model.save_pretrained(bases[1])
    tokenizer.save_pretrained(bases[1])

    folder = checkpoints.save_adapters(adapted, tmp_path / "checkpoint-7")
    for name, change in (
        ("config.json", {"mm_vision_tower": str(bases[0]), "model_type": "llava_llama"}),
        ("adapter_config.json", {"base_model_name_or_path": str(bases[1])}),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | change))

    merged = tmp_path / "merged"
    tokenizer.save_pretrained(merged)
    (merged / "config.json").write_text((folder / "config.json").read_text())
    tensors = {}
    for key, tensor in lora.merged_state(adapted).items():
        key = key.replace("vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        key = key.replace("multi_modal_projector.linear_1", "model.mm_projector.0")
        key = key.replace("multi_modal_projector.linear_2", "model.mm_projector.2")
        tensors[key.removeprefix("language_model.")] = tensor
    torch.save(tensors, merged / "pytorch_model.bin")
    return folder, merged, adapted


def test_the_originals_folders_unmerged_and_merged(originals):
    unmerged, merged, model = originals
    close(logits(checkpoints.load(unmerged)), logits(model))
    close(logits(checkpoints.load(merged)), logits(model))


def test_the_originals_older_adapter_file(originals):
    folder, _, model = originals
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    close(logits(checkpoints.load(folder)), logits(model))


def test_the_original_without_its_tower_or_with_other_tokens(originals):
    _, merged, model = originals
    tensors = torch.load(merged / "pytorch_model.bin", weights_only=True)
    torch.save({k: t for k, t in tensors.items() if "vision_tower" not in k}, merged / "pytorch_model.bin")
    close(logits(checkpoints.load(merged)), logits(model))
    config = json.loads((merged / "config.json").read_text())
    (merged / "config.json").write_text(json.dumps(config | {"mm_use_im_start_end": True}))
    with pytest.raises(ValueError, match="not a LLaVA-1.5.*mm_use_im_start_end"):
        checkpoints.load(merged)


@pytest.mark.parametrize("said", ["pad", "square", None])
def test_the_originals_folders_say_how_pictures_become_square(originals, said):
    for folder in originals[:2]:
        config = json.loads((folder / "config.json").read_text()) | {"image_aspect_ratio": said}
        (folder / "config.json").write_text(json.dumps(config))
    unmerged, merged = (checkpoints.load(folder).aspect for folder in originals[:2])
    assert unmerged == (said or "pad") and merged == (said or "square")
    config["image_aspect_ratio"] = "anyres"
    (originals[1] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="not a LLaVA-1.5.*anyres"):
        checkpoints.load(originals[1])


def test_a_folders_name_says_nothing(adapted, base, tmp_path):
    whole = checkpoints.export(adapted, tmp_path / "llava-lora-adapter")
    part = checkpoints.save_adapters(adapted, tmp_path / "model")
    close(logits(checkpoints.load(whole)), logits(checkpoints.load(part)))


# ── what does not fit ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(adapted, tmp_path):
    return checkpoints.save_adapters(adapted, tmp_path / "adapter")


def test_adapters_of_another_model_are_named_with_both_shapes(folder):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    prefix = "base_model.model.model.layers"
    tensors[f"{prefix}.0.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 128)
    tensors[f"{prefix}.9.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 64)
    tensors[f"{prefix}.9.mlp.up_proj.lora_B.weight"] = torch.zeros(172, 4)
    del tensors[f"{prefix}.1.mlp.up_proj.lora_B.weight"]
    save_file(tensors, file)
    projector = {"base_model.model.model.mm_projector.0.bias": torch.zeros(128)}
    torch.save(projector, folder / "non_lora_trainables.bin")
    with pytest.raises(ValueError) as error:
        checkpoints.load(folder)
    message = str(error.value)
    for line in (
        "wrong shape  language_model.model.layers.0.mlp.up_proj.weight: "
        "the file has A [4, 128] and B [172, 4], the model [172, 64]",
        "unexpected   language_model.model.layers.9.mlp.up_proj.weight",
        "half a pair  language_model.model.layers.1.mlp.up_proj.weight: the file has A [4, 64] and B None",
        "wrong shape  multi_modal_projector.linear_1.bias: the file has [128], the model [64]",
    ):
        assert line in message
    assert str(folder) in message and message.count("\n") == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "not plain LoRA .*'IA3'"),
        ({"use_dora": True}, "not plain LoRA .*use_dora"),
        ({"init_lora_weights": "pissa"}, "not plain LoRA .*pissa"),
        ({"base_model_name_or_path": None}, "names no base model"),
    ],
)
def test_other_adapters_are_refused(folder, change, message):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        checkpoints.load(folder)


def test_a_base_that_is_elsewhere_can_be_given(folder, adapted, base, tmp_path):
    base.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="no folder .*base.*base=FOLDER"):
        checkpoints.load(folder)
    close(logits(checkpoints.load(folder, base=tmp_path / "moved")), logits(adapted))
    with pytest.raises(ValueError, match="no base goes with it"):
        checkpoints.load(tmp_path / "moved", base=folder)


def test_half_copied_folders(originals):
    folder, _, _ = originals
    (folder / "non_lora_trainables.bin").unlink()
    with pytest.raises(FileNotFoundError, match="the projector .non_lora_trainables.bin"):
        checkpoints.load(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no adapter_model.safetensors"):
        checkpoints.load(folder)


def test_a_pickle_beside_the_adapters_does_not_run(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"base_model.model.model.mm_projector.0.bias": Trap()}, folder / "non_lora_trainables.bin")
    with pytest.raises(ValueError, match="not a file of weights alone"):
        checkpoints.load(folder)
    assert not (tmp_path / "sprung").exists()


def test_no_adapters_to_save(make_model, tmp_path):
    with pytest.raises(ValueError, match="no adapters to save"):
        checkpoints.save_adapters(make_model(), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
