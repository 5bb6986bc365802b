"""What the tests share: one thread, no network, models of 7B's proportions at 1/64 of its width."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json

import numpy as np
import pytest
import torch
from helpers import QUESTION
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPVisionConfig, LlamaConfig, LlamaTokenizer, LlavaConfig

from minillava import checkpoints

torch.set_num_threads(1)

CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: What color is the ball? "
    "ASSISTANT: The ball is red. USER: How many boxes are there? ASSISTANT: Two boxes, one blue.",
    "a red ball left of a blue box",
]


def llama_tokenizer(special: list[str]) -> LlamaTokenizer:
    """LLaMA's kind: `<unk>` 0, `<s>` 1, `</s>` 2, bytes 3-258, merges, and `special` at the end."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=first, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    tokenizer = LlamaTokenizer(vocab=trained.get_vocab(), merges=merges, legacy=False)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    if "<pad>" in special:
        tokenizer.pad_token = "<pad>"
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> LlamaTokenizer:
    return llama_tokenizer(["<image>", "<pad>"])


@pytest.fixture(scope="session")
def text_tokenizer() -> LlamaTokenizer:
    """As Vicuna's: it knows nothing of pictures."""
    return llama_tokenizer([])


@pytest.fixture(scope="session")
def make_config(tokenizer):
    """make_config(tied=False): D_v 16, D 64, MLPs 4 and 2.6875 times as wide; 4 x 4 patches."""

    def make(tied: bool = False, **changes) -> LlavaConfig:
        return LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                image_size=16,
                patch_size=4,
            ),
            text_config=LlamaConfig(
                vocab_size=-(-len(tokenizer) // 64) * 64,
                hidden_size=64,
                intermediate_size=172,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=256,
                rms_norm_eps=1e-5,
                tie_word_embeddings=tied,
                pad_token_id=tokenizer.pad_token_id,
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=16,
            tie_word_embeddings=tied,
            **changes,
        )

    return make


@pytest.fixture
def make_model(make_config, tokenizer):
    """make_model(tied=False): a MiniLlava with random weights, large enough that its words vary."""
    from minillava.checkpoints import attach
    from minillava.model import MiniLlava

    def make(tied: bool = False, **changes) -> MiniLlava:
        torch.manual_seed(0)
        model = MiniLlava(make_config(tied, **changes))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=0.2)
        return attach(model, tokenizer)

    return make


@pytest.fixture
def picture() -> Image.Image:
    """A photograph's worth of detail, wider than high."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def model_folder(make_model, tokenizer, tmp_path):
    model = make_model()
    head = model.language_model.lm_head.weight.data
    head[len(tokenizer) :] = 0  # rows that pad the table to a multiple of 64: no token has their ids
    return str(checkpoints.save(model, tmp_path / "model"))


@pytest.fixture
def saved(make_model, tmp_path):
    """(a model, the folder it is saved in)."""
    model = make_model()
    return model, checkpoints.save(model, tmp_path / "saved")


@pytest.fixture
def image(picture, tmp_path):
    picture.save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


@pytest.fixture
def records(image, tmp_path):
    """A file of 32 records in LLaVA's format."""
    turns = [
        {"from": "human", "value": f"<image>\n{QUESTION}"},
        {"from": "gpt", "value": "The ball is red."},
    ]
    rows = [{"id": f"r{i}", "image": image, "conversations": turns} for i in range(32)]
    file = tmp_path / "records.json"
    file.write_text(json.dumps(rows))
    return file
