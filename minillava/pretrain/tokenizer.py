"""The tokenizer of the tiny models: LLaMA's kind (byte-pair encoding with byte fallback), trained here."""

import json
import string
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer

_SPECIAL = ["<unk>", "<s>", "</s>"]
_BYTES = [f"<0x{value:02X}>" for value in range(256)]


def train_tokenizer(corpus: Iterable[str], vocab_size: int = 1280) -> LlamaTokenizer:
    """Train a LLaMA tokenizer in which every frequent word of `corpus` is one token.

    Ids are laid out as in LLaMA: `<unk>` 0, `<s>` 1, `</s>` 2, the 256 bytes 3-258 (any text can be
    encoded), then characters and merges, and last, as in llava-hf, `<image>` and `<pad>`. Words never
    merge across spaces, digits or punctuation, but "top-left" is one word. Every text starts with `<s>`.
    """
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\n\d]|[^\w\s-]"), behavior="isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never", split=True),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=4,
        special_tokens=_SPECIAL + _BYTES,
        initial_alphabet=list(string.printable[:95]) + ["▁"],
        show_progress=False,
    )
    trained.train_from_iterator((" " + text for text in corpus), trainer)
    vocab = trained.get_vocab(with_added_tokens=True)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    tokenizer = LlamaTokenizer(
        vocab=vocab, merges=merges, legacy=False, add_bos_token=True, model_max_length=2048
    )
    tokenizer.padding_side = "right"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    return tokenizer
