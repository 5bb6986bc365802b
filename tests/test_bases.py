"""checkpoints.from_bases: two pretrained models joined by a fresh projector, with room for `<image>`."""

import json

import pytest
import torch
from helpers import rewrite, same
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel, LlamaForCausalLM

from minillava import checkpoints


@pytest.fixture
def bases(make_config, tokenizer, tmp_path):
    """Folders of a CLIP and of a LLaMA that knows `<image>` already, as the shipped ones do."""
    torch.manual_seed(3)
    config = make_config()
    clip = CLIPConfig(
        vision_config=config.vision_config.to_dict(),
        text_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 50,
        },
    )
    CLIPModel(clip).save_pretrained(tmp_path / "clip")
    LlamaForCausalLM(config.text_config).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    return tmp_path / "clip", tmp_path / "llama"


def test_from_bases_keeps_the_bases_and_draws_the_projector(bases):
    model = checkpoints.from_bases(*bases, seed=1)
    clip, llama = CLIPModel.from_pretrained(bases[0]), LlamaForCausalLM.from_pretrained(bases[1])
    assert same(model.vision_tower, clip.vision_model)
    assert same(model.language_model, llama)
    assert not any(p.requires_grad for p in model.vision_tower.parameters())
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])
    assert same(model, checkpoints.from_bases(*bases, seed=1))
    assert not same(model, checkpoints.from_bases(*bases, seed=2))


def test_from_bases_prints_nothing(bases, capfd):
    capfd.readouterr()
    checkpoints.from_bases(*bases)
    assert capfd.readouterr() == ("", "")


def test_from_bases_leaves_the_random_state_alone(bases):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    checkpoints.from_bases(*bases, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_from_bases_answers_and_survives_a_save(bases, picture, tmp_path):
    model = checkpoints.from_bases(*bases)
    again = checkpoints.load(checkpoints.export(model, tmp_path / "joined"))
    assert same(model, again)
    assert again.config.image_seq_length == 16 and again.config.vision_feature_layer == -2
    question = "How many?"
    assert model.answer(picture, question, max_new_tokens=4) == again.answer(
        picture, question, max_new_tokens=4
    )
    for file in (tmp_path / "joined").glob("*.json"):
        assert str(tmp_path) not in file.read_text()


def test_from_bases_takes_a_vision_tower_alone_and_the_linear_projector(bases, tmp_path):
    CLIPModel.from_pretrained(bases[0]).vision_model.save_pretrained(tmp_path / "vision")
    model = checkpoints.from_bases(tmp_path / "vision", bases[1], projector_type="linear")
    assert isinstance(model.vision_tower, CLIPVisionModel)
    assert same(model, checkpoints.load(checkpoints.save(model, tmp_path / "linear")))


def test_bases_swapped(bases):
    with pytest.raises(ValueError, match="llama holds a 'llama' model; expected clip"):
        checkpoints.from_bases(bases[1], bases[0])


@pytest.mark.parametrize("tied", [False, True])
def test_vocabulary_grows_as_llava_hf_does(make_config, text_tokenizer, bases, tmp_path, tied):
    """360 tokens -> 362 with <image> and <pad> -> 384 rows."""
    text = make_config(tied).text_config
    text.vocab_size, text.pad_token_id = 360, None
    torch.manual_seed(4)
    llama = LlamaForCausalLM(text)
    with torch.no_grad():
        for table in {llama.model.embed_tokens.weight, llama.lm_head.weight}:
            table.mul_(torch.linspace(1, 40, 64)).add_(torch.linspace(-1, 1, 64))
    old = {key: tensor.clone() for key, tensor in llama.state_dict().items()}
    llama.save_pretrained(tmp_path / "vicuna")
    text_tokenizer.save_pretrained(tmp_path / "vicuna")

    model = checkpoints.from_bases(bases[0], tmp_path / "vicuna", seed=5)
    tokens = model.tokenizer
    assert tokens.convert_tokens_to_ids(["<image>", "<pad>"]) == [360, 361]
    assert tokens.tokenize("a<image>b")[1] == "<image>"
    assert tokens.pad_token == "<pad>" and model.config.image_token_id == 360
    assert model.config.text_config.vocab_size == 384
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        new = model.language_model.state_dict()[name]
        assert new.shape == (384, 64)
        assert torch.equal(new[:360], old[name])
        # New rows of both tables are N(mean, 1e-5 cov) of the embeddings: column by column, their
        # distance to the mean has the standard deviation of the old rows, times sqrt(1e-5).
        rows = old["model.embed_tokens.weight"]
        mean, deviation = rows.mean(0), rows.std(0, correction=0) * 1e-5**0.5
        score = (new[360:] - mean) / deviation
        assert score.abs().max() < 6 and 0.8 < score.std() < 1.2
        assert score.unique(dim=0).shape[0] == 24  # no two alike
    head, table = model.language_model.lm_head, model.language_model.model.embed_tokens
    assert (head.weight is table.weight) == tied
    assert same(model, checkpoints.load(checkpoints.save(model, tmp_path / "grown")))


def test_half_copied_base(bases):
    (bases[1] / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer.json"):
        checkpoints.from_bases(*bases)


def test_base_with_a_missing_weight(bases):
    rewrite(bases[1], lambda t: {k: v for k, v in t.items() if "layers.1.mlp.up" not in k})
    with pytest.raises(ValueError, match="does not fit.*missing_keys.*layers.1.mlp.up_proj"):
        checkpoints.from_bases(*bases)


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_base_whose_weights_are_cut_off_is_named(bases, half, keep):
    file = bases[half] / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(ValueError, match=f"{bases[half]} is damaged or does not fit: copy it again"):
        checkpoints.from_bases(*bases)


@pytest.mark.parametrize(
    ("half", "changes", "message"),
    [
        (0, {"hidden_size": 32}, "does not fit its config.json: copy it again.*mismatched_keys"),
        (1, {"hidden_size": 32}, "does not fit its config.json: copy it again.*mismatched_keys"),
        (0, {"num_attention_heads": 7}, "is damaged or does not fit: copy it again"),
        (1, {"num_attention_heads": 7}, "(is damaged or )?does not fit.*: copy it again"),
        (1, {"hidden_size": "big"}, "is damaged or does not fit: copy it again.*hidden_size"),
    ],
)
def test_a_base_of_another_shape_is_named(bases, half, changes, message):
    file = bases[half] / "config.json"
    config = json.loads(file.read_text())
    config.get("vision_config", config).update(changes)
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"{bases[half]} {message}"):
        checkpoints.from_bases(*bases)


def test_from_bases_trains_as_it_answers(bases):
    model = checkpoints.from_bases(*bases)
    ids = torch.randint(3, 40, (2, 9))
    labels = ids.masked_fill(torch.arange(9) < 5, -100)
    whole, lean = (model(ids, labels=labels, all_logits=every).loss for every in (True, False))
    torch.testing.assert_close(lean, whole)
