"""The vocabulary grows as llava-hf's did, and batches are padded on the side that each use needs.

Original: 32000 tokens and `<unk>` as padding. llava-hf: `<image>` 32000, `<pad>` 32001, tables of 32064 rows
(its config.json and added_tokens.json; transformers' former convert_llava_weights_to_hf.py).
"""

import copy
import io
import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from helpers import dataset, png, record
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from minillava import checkpoints
from minillava.data import Collator

GOLDEN = Path(__file__).parent / "golden"


def llama(tokens: int, tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=tokens, tie_word_embeddings=tied, **sizes))
    with torch.no_grad():  # rows that are anything but centered and alike
        for table in {model.model.embed_tokens.weight, model.lm_head.weight}:
            table.mul_(torch.linspace(1, 40, 16)).add_(torch.linspace(-1, 1, 16))
    return model


@pytest.mark.parametrize("folder", ["vicuna_like", "vicuna_like_legacy", "single_user"])
def test_image_and_pad_come_after_the_last_token(folder):
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "tokenizer" / folder)
    tokens, text = len(tokenizer), "USER: a ball </s>USER: é\n"
    before, model = tokenizer(text).input_ids, llama(len(tokenizer))
    checkpoints.grow_vocabulary(model, tokenizer)
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [tokens, tokens + 1]
    assert tokenizer.pad_token == "<pad>" and tokenizer(text).input_ids == before
    rows = model.config.vocab_size
    assert rows % 64 == 0 and 0 <= rows - (tokens + 2) < 64
    assert model.lm_head.weight.shape[0] == model.model.embed_tokens.weight.shape[0] == rows


def test_32000_tokens_become_32064_rows(text_tokenizer):
    """Vicuna's own number, in a table of its length."""
    tokenizer = copy.deepcopy(text_tokenizer)
    tokenizer.add_tokens([f"<extra {i}>" for i in range(32_000 - len(tokenizer))])
    model = llama(32_000)
    checkpoints.grow_vocabulary(model, tokenizer)
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [32_000, 32_001]
    assert model.config.vocab_size == 32_064


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_of_both_tables_are_drawn_from_the_embeddings(text_tokenizer, tied):
    """N(mean, 1e-5 cov): whitened by the covariance of the old rows, they are a standard normal."""
    model = llama(360, tied)
    old = {name: t.clone() for name, t in model.state_dict().items()}
    rows = old["model.embed_tokens.weight"].double()
    torch.manual_seed(1)
    checkpoints.grow_vocabulary(model, copy.deepcopy(text_tokenizer))
    covariance = torch.cov(rows.T, correction=0) * 1e-5
    unmix = torch.linalg.inv(torch.linalg.cholesky(covariance))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        table = model.state_dict()[name]
        assert torch.equal(table[:360], old[name]) and table.shape == (384, 16)
        white = (table[360:].double() - rows.mean(dim=0)) @ unmix.T  # [24, 16]
        assert abs(white.mean()) < 0.2 and 0.9 < white.std() < 1.1 and white.abs().max() < 5
        assert torch.cov(white.T).fill_diagonal_(0).abs().max() < 0.75
    same = torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert same == tied


def test_training_pads_right_and_generation_left(make_model, tokenizer, picture, tmp_path):
    """The original's `tokenizer_padding_side`; a Llama tokenizer of transformers 5 would pad left in both."""
    samples = list(
        dataset([record("a", png(), answer="A long answer."), record("b", answer="No.")], tokenizer)
    )
    batch = Collator(tokenizer.pad_token_id)(samples)
    assert batch["attention_mask"][1].tolist() == sorted(batch["attention_mask"][1].tolist(), reverse=True)
    assert batch["input_ids"][1, -1] == tokenizer.pad_token_id and batch["labels"][1, -1] == -100

    model = make_model()
    turns = [[{"from": "human", "value": text}] for text in ("How many boxes are there?", "How?")]
    prompts = model.prepare(turns, [[], []])
    assert prompts["input_ids"][1, 0] == tokenizer.pad_token_id
    assert prompts["attention_mask"][:, -1].all()
    exported = AutoTokenizer.from_pretrained(checkpoints.export(model, tmp_path / "export"))
    assert exported.padding_side == "left" and exported.pad_token == "<pad>"


def test_a_tokenizer_that_is_a_sentencepiece_model_alone(tmp_path):
    """What Vicuna's folders and the original's have: its ids are those of SentencePiece itself."""
    written = "A chat between a curious user and an assistant. USER: What color is the ball? ASSISTANT: Red."
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([written] * 20), model_writer=made, vocab_size=310, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(made.getvalue())
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = checkpoints.read_tokenizer(tmp_path)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    for text in (written, "the user is an assistant", "é ball  ?"):
        assert tokenizer(text).input_ids == [1, *theirs.encode(text)]
