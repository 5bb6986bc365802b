"""checkpoints.py and weights.py: what is written is read back, and what does not fit is named."""

import json
import os

import pytest
import torch
from helpers import rewrite, same
from safetensors.torch import load_file, save_file

from minillava import checkpoints, weights
from minillava.images import preprocess

LINEAR_1 = "multi_modal_projector.linear_1.weight"
EMBEDDINGS = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"


@pytest.fixture
def saved(make_model, tmp_path):
    """(a model, the folder it is saved in)."""
    model = make_model()
    return model, checkpoints.save(model, tmp_path / "saved")


# ── round trips ───────────────────────────────────────────────────────────────────────────────


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


# ── atomic saves ──────────────────────────────────────────────────────────────────────────────


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


# ── weights that do not fit ───────────────────────────────────────────────────────────────────


def test_every_key_that_does_not_fit_is_named(saved):
    _, folder = saved

    def change(tensors):
        tensors[LINEAR_1] = tensors[LINEAR_1][:, :8]
        tensors["language_model.model.layers.9.surplus"] = torch.zeros(3)
        del tensors["multi_modal_projector.linear_2.bias"], tensors[HEAD]
        return tensors

    rewrite(folder, change)
    with pytest.raises(ValueError) as error:
        checkpoints.load(folder)
    message = str(error.value)
    assert f"wrong shape {LINEAR_1}: the file has [64, 8], the model [64, 16]" in message
    assert "unexpected  language_model.model.layers.9.surplus [3]" in message
    assert "missing     multi_modal_projector.linear_2.bias [64]" in message
    assert f"missing     {HEAD}" in message
    assert str(folder) in message and message.count("\n") == 4


def test_config_of_another_size(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_size"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"linear_1\.weight: the file has \[64, 16\], .*\[64, 32\]"):
        checkpoints.load(folder)


# ── folders that are not checkpoints ──────────────────────────────────────────────────────────


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere.*tiny.*llava-1.5-7b"):
        checkpoints.load(tmp_path / "nowhere")


def test_misspelled_path_does_not_ask_the_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(weights, "download", lambda _: pytest.fail("asked the network"))
    with pytest.raises(FileNotFoundError, match="no folder runs/mine"):
        checkpoints.load("runs/mine")


def test_hub_id_without_network():
    with pytest.raises(FileNotFoundError, match="as a hub id it could not be fetched"):
        checkpoints.load("nobody/no-such-model")


def test_presets_name_their_finished_model(saved, monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "download", lambda name: asked.append(name) or saved[1])
    assert same(saved[0], checkpoints.load("llava-1.5-13b"))
    assert asked == ["llava-hf/llava-1.5-13b-hf"]


def test_a_file_in_place_of_a_folder(saved):
    with pytest.raises(ValueError, match="is a file: give the folder"):
        checkpoints.load(saved[1] / "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_half_copied_folder(saved, name):
    _, folder = saved
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{folder} has .*no {name}.*cop"):
        checkpoints.load(folder)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_truncated_weights(saved, keep):
    file = saved[1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors \([\d,]+ bytes\) is cut off"):
        checkpoints.load(saved[1])


def test_damaged_config(saved):
    (saved[1] / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(ValueError, match="config.json is damaged"):
        checkpoints.load(saved[1])


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "half", "{}", "[]"])
def test_damaged_tokenizer(saved, name, content):
    file = saved[1] / name
    file.write_text(file.read_text()[: file.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(ValueError, match=rf"{saved[1]}.*(copy|different models)"):
        checkpoints.load(saved[1])


def test_half_copied_tokenizer(saved):
    (saved[1] / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=rf"{saved[1]}.*copy.*tokenizer_config.json"):
        checkpoints.load(saved[1])


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("text_config", {"hidden_size": "big"}),
        ("text_config", {"num_attention_heads": 7}),
        ("vision_config", {"num_attention_heads": 7}),
    ],
)
def test_a_config_with_impossible_numbers(saved, part, changes):
    file = saved[1] / "config.json"
    config = json.loads(file.read_text())
    config[part] |= changes
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json is damaged or does not fit: copy it again"):
        checkpoints.load(saved[1])


def test_folders_of_other_models(saved):
    _, folder = saved
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="holds a 'llama' model.*from_bases"):
        checkpoints.load(folder)


def test_tokenizer_of_another_model(saved, text_tokenizer):
    text_tokenizer.save_pretrained(saved[1])
    with pytest.raises(ValueError, match="<image> is token None .* config.json says 360"):
        checkpoints.load(saved[1])


# ── projectors alone ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["mlp2x_gelu", "linear"])
def test_projector_alone(make_model, tmp_path, kind):
    model, other = make_model(mm_projector_type=kind), make_model(mm_projector_type=kind)
    with torch.no_grad():
        for parameter in model.multi_modal_projector.parameters():
            parameter.add_(1)
    file = checkpoints.save_projector(model, tmp_path / "stage1" / "projector.safetensors")
    checkpoints.load_projector(other, file)
    assert same(model, other)


@pytest.mark.parametrize("prefix", ["model.", "base_model.model.model.", ""])
def test_the_originals_projector(make_model, tmp_path, prefix):
    model, file = make_model(), tmp_path / "mm_projector.bin"
    shapes = {"0.weight": (64, 16), "0.bias": (64,), "2.weight": (64, 64), "2.bias": (64,)}
    original = {f"{prefix}mm_projector.{k}": torch.randn(s) for k, s in shapes.items()}
    torch.save(original, file)
    checkpoints.load_projector(model, file)
    for ours, theirs in (("linear_1", "0"), ("linear_2", "2")):
        for kind in ("weight", "bias"):
            found = getattr(getattr(model.multi_modal_projector, ours), kind)
            assert torch.equal(found, original[f"{prefix}mm_projector.{theirs}.{kind}"])


def test_the_originals_linear_projector(make_model, tmp_path):
    model, file = make_model(mm_projector_type="linear"), tmp_path / "mm_projector.bin"
    original = {"weight": torch.randn(64, 16), "bias": torch.randn(64)}
    torch.save({f"model.mm_projector.{k}": v for k, v in original.items()}, file)
    checkpoints.load_projector(model, file)
    assert torch.equal(model.multi_modal_projector.linear_1.weight, original["weight"])
    with pytest.raises(ValueError, match=r"missing     linear_2.bias \[64\]"):
        checkpoints.load_projector(make_model(), file)


def test_projector_of_another_width(make_model, tmp_path):
    model, file = make_model(), tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": torch.zeros(128, 16)}, file)
    with pytest.raises(ValueError, match=r"linear_1.weight: the file has \[128, 16\]"):
        checkpoints.load_projector(model, file)


def test_pickle_that_would_run_code_does_not(make_model, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    file = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": Trap()}, file)
    with pytest.raises(ValueError, match="not a file of weights alone"):
        checkpoints.load_projector(make_model(), file)
    assert not (tmp_path / "sprung").exists()


def test_no_projector_file(make_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no projector file"):
        checkpoints.load_projector(make_model(), tmp_path / "projector.safetensors")


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
