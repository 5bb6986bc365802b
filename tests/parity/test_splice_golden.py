"""The splice against the original's: placeholders expanded beforehand end in the same layout.

`after_splice` holds batches as `prepare_inputs_labels_for_multimodal` returned them, with -200
where a picture's features went and -1 where it padded, on either side.
"""

import gzip
import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from minillava.model import MiniLlava

with gzip.open(Path(__file__).parent / "golden" / "after_splice.jsonl.gz", "rt") as lines:
    BATCHES = [batch for batch in map(json.loads, lines) if not batch["raises"]]

IMAGE, PAD = 2310, 0


@pytest.fixture(scope="module")
def model() -> MiniLlava:
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return MiniLlava(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**sizes, image_size=8, patch_size=4),
            text_config=LlamaConfig(**sizes, vocab_size=2368),
            image_token_index=IMAGE,
        )
    )


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: batch["id"])
def test_features_land_where_the_original_puts_them(model, batch):
    layout = torch.tensor(batch["layout"])
    input_ids = layout.masked_fill(layout == -200, IMAGE).masked_fill(layout == -1, PAD)
    patches = batch["n_image_positions"]
    used = [(b, *place) for b, places in enumerate(batch["images_used"]) for place in places]
    embeds = torch.randn(len(used), patches, 8)
    if any(kept < patches for *_, kept in used):
        with pytest.raises(ValueError, match="cut no picture in half"):
            model.splice(input_ids, embeds)
        return
    expected = model.language_model.get_input_embeddings()(input_ids).clone()
    for picture, (b, _, first, kept) in enumerate(used):
        expected[b, first : first + kept] = embeds[picture]
    assert torch.equal(model.splice(input_ids, embeds), expected)
