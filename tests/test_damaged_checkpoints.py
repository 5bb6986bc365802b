"""Folders that hold half a model, another one or none: each mistake is named."""

import json

import pytest
import torch
from helpers import rewrite, same

from minillava import checkpoints, weights

LINEAR_1 = "multi_modal_projector.linear_1.weight"
HEAD = "language_model.lm_head.weight"


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
