"""A model, saved and loaded again: what the folder holds, and that a save is whole or not at all."""

import json
import os

import pytest
import torch
from helpers import rewrite, same
from safetensors.torch import load_file, save_file

from minillava import checkpoints
from minillava.images import preprocess

LINEAR_1 = "multi_modal_projector.linear_1.weight"
EMBEDDINGS = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"


@pytest.mark.parametrize("tied", [False, True])
def test_save_and_load(make_model, picture, tmp_path, tied):
    model = make_model(tied)
    again = checkpoints.load(checkpoints.save(model, tmp_path / "a" / "b"))
    assert same(model, again)
    question = "What color is the ball?"
    assert again.answer(picture, question, max_new_tokens=8) == model.answer(
        picture, question, max_new_tokens=8
    )
    head = again.language_model.lm_head.weight
    assert (head is again.language_model.model.embed_tokens.weight) == tied
    assert not any(p.requires_grad for p in again.vision_tower.parameters())
    assert not again.training


def test_the_state_dict_is_the_file(saved):
    model, folder = saved
    found = load_file(folder / "model.safetensors")
    assert found.keys() == model.state_dict().keys()
    prefixes = ("vision_tower.", "multi_modal_projector.linear_", "language_model.")
    assert all(key.startswith(prefixes) for key in found)


def test_files_of_the_folder(saved):
    _, folder = saved
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["vision_feature_layer"] == -2 and config["image_seq_length"] == 16
    processor = json.loads((folder / "processor_config.json").read_text())
    assert processor["patch_size"] == 4
    assert processor["num_additional_image_tokens"] == 1
    assert processor["vision_feature_select_strategy"] == "default"
    assert processor["image_processor"]["do_pad"] is True
    modes = {file.stat().st_mode for file in folder.iterdir()}
    assert len(modes) == 1  # the weights are as readable as the rest
    for file in folder.glob("*.json"):
        assert str(folder.parent) not in file.read_text()  # no path of this machine


def test_what_is_loaded_is_saved_alike(saved, tmp_path):
    """Its tokenizer's class too, which transformers 5 takes for one that no earlier version has."""
    _, folder = saved
    again = checkpoints.save(checkpoints.load(folder), tmp_path / "again")
    for file in folder.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name
    assert json.loads((again / "tokenizer_config.json").read_text())["tokenizer_class"] == "LlamaTokenizer"


def test_load_in_another_precision(saved):
    _, folder = saved
    model = checkpoints.load(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    ids = torch.full((1, 17), model.config.image_token_id)
    ids[0, 0] = 1
    output = model(ids, torch.randn(1, 3, 16, 16), labels=torch.where(ids == 1, -100, 300))
    assert output.logits.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
    kept = checkpoints.load(checkpoints.save(model, folder.parent / "half"))
    assert {p.dtype for p in kept.parameters()} == {torch.bfloat16}


def test_linear_projector_is_saved_but_not_exported(make_model, tmp_path):
    model = make_model(mm_projector_type="linear")
    assert same(model, checkpoints.load(checkpoints.save(model, tmp_path / "linear")))
    with pytest.raises(ValueError, match="no 'linear' projector"):
        checkpoints.export(model, tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    "rename",
    [
        lambda k: k.replace("vision_tower.", "vision_tower.vision_model."),
        lambda k: (
            k.replace("language_model.lm_head", "lm_head")
            if "lm_head" in k
            else "model." + k.replace("language_model.model.", "language_model.")
        ),
    ],
    ids=["llava-hf on the hub", "transformers 5 in memory"],
)
def test_other_names_of_the_same_weights(saved, rename):
    model, folder = saved
    rewrite(folder, lambda tensors: {rename(key): t for key, t in tensors.items()})
    assert same(model, checkpoints.load(folder))


def test_computed_tensors_of_older_files_are_left_out(saved):
    model, folder = saved
    extra = {
        "vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None],
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
    }
    rewrite(folder, lambda tensors: tensors | extra)
    assert same(model, checkpoints.load(folder))


def test_sharded_weights(saved):
    model, folder = saved
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    where = {}
    for shard, part in (("one.safetensors", keys[::2]), ("two.safetensors", keys[1::2])):
        save_file({key: tensors[key] for key in part}, folder / shard)
        where |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert same(model, checkpoints.load(folder))
    (folder / "two.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"not complete: copy two\.safetensors"):
        checkpoints.load(folder)


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_may_be_in_the_file_if_it_is_the_same(make_model, tmp_path, tied):
    model = make_model(tied)
    folder = checkpoints.save(model, tmp_path / "saved")
    rewrite(folder, lambda tensors: tensors | {HEAD: tensors[EMBEDDINGS]})
    checkpoints.load(folder)
    rewrite(folder, lambda tensors: tensors | {HEAD: tensors[EMBEDDINGS] + 1})
    if tied:
        with pytest.raises(ValueError, match="tie_word_embeddings.*two different tensors"):
            checkpoints.load(folder)
    else:
        checkpoints.load(folder)


def test_pictures_are_made_square_as_the_checkpoint_says(saved, picture, tmp_path):
    model, folder = saved
    turns = [[{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": None}]]
    file = folder / "processor_config.json"
    found = json.loads(file.read_text())
    for said, aspect in ((True, "pad"), (False, "square"), (None, "pad")):
        found["image_processor"] |= {"do_pad": said}
        file.write_text(json.dumps(found))
        again = checkpoints.load(folder)
        assert again.aspect == aspect
        pixels = again.prepare(turns, [[picture]])["pixel_values"][0]
        assert torch.equal(pixels, preprocess(picture, 16, aspect))
        assert checkpoints.load(checkpoints.save(again, tmp_path / "again")).aspect == aspect
    file.unlink()  # as in older folders
    (folder / "preprocessor_config.json").write_text('{"do_pad": false}')
    assert checkpoints.load(folder).aspect == "square"


@pytest.mark.parametrize("broken", ["save_file", "flush"])
def test_a_failed_save_leaves_the_last_good_one(saved, monkeypatch, broken):
    model, folder = saved
    good = {file.name: file.read_bytes() for file in folder.iterdir()}
    with torch.no_grad():
        model.multi_modal_projector.linear_1.weight.zero_()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, broken, full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(model, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == good
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]  # nothing half-written lies about


def test_a_kill_between_two_files_leaves_the_old_weights(saved, monkeypatch):
    model, folder = saved
    old = load_file(folder / "model.safetensors")
    with torch.no_grad():
        model.multi_modal_projector.linear_1.weight.zero_()
    done = []

    def replace(source, target, really=os.replace):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(target)
        really(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(model, folder)
    assert torch.equal(checkpoints.load(folder).state_dict()[LINEAR_1], old[LINEAR_1])


def test_a_save_clears_away_what_a_killed_one_left(saved):
    model, folder = saved
    left = folder.parent / f".{folder.name}.unfinished-of-then"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    checkpoints.save(model, folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_saving_again_replaces_the_weights_and_keeps_other_files(saved):
    model, folder = saved
    (folder / "README.md").write_text("a card")
    with torch.no_grad():
        model.multi_modal_projector.linear_1.weight.zero_()
    checkpoints.save(model, folder)
    assert not checkpoints.load(folder).multi_modal_projector.linear_1.weight.any()
    assert (folder / "README.md").read_text() == "a card"


def test_weights_gathered_elsewhere(make_model, tmp_path):
    model = make_model()
    gathered = {key: tensor + 1 for key, tensor in model.state_dict().items()}
    again = checkpoints.load(checkpoints.save(model, tmp_path / "saved", gathered))
    assert torch.equal(again.state_dict()[LINEAR_1], gathered[LINEAR_1])
