"""Everything that `load` takes besides a whole llava-hf folder: projectors alone, and the folders of runs.

What LoRA leaves is in test_lora.py, what transformers leaves in test_llava_hf.py.
"""

import shutil

import pytest
import torch
from helpers import rewrite, same
from safetensors.torch import save_file

from minillava import checkpoints
from minillava.config import PRESETS

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def stage1():
    """The shipped bases, with a projector that is not the one they start with."""
    model = checkpoints.from_bases(TINY.vision_tower, TINY.language_model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.multi_modal_projector.parameters():
            parameter.normal_(std=0.1)
    return model


def test_a_stage_1_projector_alone_finds_its_bases(stage1, tmp_path):
    file = checkpoints.save_projector(stage1, tmp_path / "stage1" / "projector.safetensors")
    (tmp_path / "stage1" / "curve.csv").write_text("step,split,loss,learning_rate\n")
    assert same(checkpoints.load(file), stage1)
    assert same(checkpoints.load(file.parent), stage1)
    assert same(checkpoints.load(tmp_path), stage1)  # a run of which only stage 1 is done


def test_the_originals_mm_projector_alone(stage1, tmp_path):
    folder = tmp_path / "llava-pretrain-lora"  # as misleading as names get
    folder.mkdir()
    weights = stage1.multi_modal_projector.state_dict()
    names = {"linear_1": "model.mm_projector.0", "linear_2": "model.mm_projector.2"}
    original = {names[k.split(".")[0]] + "." + k.split(".")[1]: t for k, t in weights.items()}
    torch.save(original, folder / "mm_projector.bin")
    (folder / "config.json").write_text('{"model_type": "llava", "mm_vision_tower": "openai/clip"}')
    assert same(checkpoints.load(folder / "mm_projector.bin"), stage1)
    assert same(checkpoints.load(folder), stage1)


def test_its_file_may_have_any_name(stage1, tmp_path):
    file = checkpoints.save_projector(stage1, tmp_path / "projector.safetensors")
    assert same(checkpoints.load(file.rename(tmp_path / "model-final.safetensors")), stage1)


@pytest.mark.parametrize(("size", "width"), [("7b", 4096), ("13b", 5120)])
def test_a_real_projector_asks_for_the_real_bases(tmp_path, monkeypatch, size, width):
    file = tmp_path / "projector.safetensors"
    save_file({"multi_modal_projector.linear_1.weight": torch.zeros(width, 1024).bfloat16()}, file)
    asked = []

    def from_bases(*names, **options):
        asked.append((names, options))
        raise FileNotFoundError

    monkeypatch.setattr(checkpoints, "from_bases", from_bases)
    with pytest.raises(FileNotFoundError):
        checkpoints.load(file)
    ((names, options),) = asked
    assert names == ("openai/clip-vit-large-patch14-336", f"lmsys/vicuna-{size}-v1.5")
    assert (options["projector_type"], options["dtype"]) == ("linear", torch.bfloat16)


def test_a_projector_of_other_bases_says_so_and_takes_them(make_model, tmp_path):
    model = make_model()
    checkpoints.save(model, tmp_path / "base")
    with torch.no_grad():
        model.multi_modal_projector.linear_1.bias.add_(1)
    file = checkpoints.save_projector(model, tmp_path / "projector.safetensors")
    with pytest.raises(ValueError, match=r"\[64, 16\], and no preset's .*'tiny': \[192, 128\].*base=FOLDER"):
        checkpoints.load(file)
    assert same(checkpoints.load(file, base=tmp_path / "base"), model)


def test_the_folder_of_a_run_or_of_a_stage(make_model, stage1, picture, tmp_path):
    model = make_model()
    checkpoints.save_projector(stage1, tmp_path / "run" / "stage1" / "projector.safetensors")
    folder = checkpoints.save(model, tmp_path / "run" / "stage2" / "model")
    for name in (tmp_path / "run", tmp_path / "run" / "stage2", folder):
        assert same(checkpoints.load(name), model)
    shutil.copytree(tmp_path / "run" / "stage2", tmp_path / "run" / "stage2-lora")
    with pytest.raises(ValueError, match="several models, say which: .*stage2-lora/model"):
        checkpoints.load(tmp_path / "run")


def live(key: str) -> str:
    """As transformers 5 names a LLaVA's tensors in memory."""
    head = key.replace("language_model.lm_head", "lm_head")
    return head if head != key else "model." + key.replace("language_model.model.", "language_model.")


IN_THE_WILD = {
    "llava-hf on the hub": lambda key: key.replace("vision_tower.", "vision_tower.vision_model."),
    "saved by transformers 5": lambda key: key,
    "transformers 5 in memory": live,
    "in memory, as it was loaded": lambda key: live(key).replace("tower.", "tower.vision_model."),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rename", IN_THE_WILD.values(), ids=IN_THE_WILD)
def test_every_prefix_in_the_wild(make_model, tmp_path, rename, tied):
    model = make_model(tied)
    folder = checkpoints.export(model, tmp_path / "folder")
    rewrite(folder, lambda tensors: {rename(key): tensor for key, tensor in tensors.items()})
    assert same(checkpoints.load(folder), model)


@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model.model."])
def test_every_prefix_of_the_originals_projector(make_model, tmp_path, prefix):
    """mm_projector.bin (llava/train/train.py) and non_lora_trainables.bin, layers 0 and 2."""
    model = make_model()
    base = checkpoints.save(model, tmp_path / "base")
    with torch.no_grad():
        for parameter in model.multi_modal_projector.parameters():
            parameter.normal_()
    names = {"linear_1": f"{prefix}mm_projector.0", "linear_2": f"{prefix}mm_projector.2"}
    weights = model.multi_modal_projector.state_dict()
    original = {names[k.split(".")[0]] + "." + k.split(".")[1]: t for k, t in weights.items()}
    torch.save(original, tmp_path / "mm_projector.bin")
    assert same(checkpoints.load(tmp_path / "mm_projector.bin", base=base), model)


def test_an_empty_folder_and_one_of_other_things(tmp_path):
    (tmp_path / "words.bin").write_text("no tensors")
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        checkpoints.load(tmp_path)
