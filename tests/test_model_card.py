"""model_card.py: what stands beside a reproduced model."""

import hashlib

from minillava.config import PRESETS
from minillava.model_card import write_model_card

SUMMARY = {
    "seed": 3,
    "threads": 2,
    "seconds": 930.0,
    "peak_memory_gb": 2.61,
    "caption_f1": {"before stage 1": 0.0, "after stage 1": 0.916},
    "text_loss": {"before stage 2": 0.021, "after stage 2": 0.055},
    "stages": {
        "stage1": {"steps": 1200, "seconds": 252.0, "val_loss": [0.5, 0.317]},
        "stage2": {"steps": 1100, "seconds": 533.0, "val_loss": [0.3, 0.151]},
    },
}
TABLE = "| test | questions | sighted |\n|---|---:|---:|\n| all | 4981 | 83.5 [82.5, 84.5] |"


def test_the_card_says_how_it_was_made_what_it_can_do_and_which_weights_it_is_about(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 1_000_000)
    card = write_model_card(tmp_path, PRESETS["tiny"], SUMMARY, TABLE).read_text()
    assert card.startswith("# tiny-llava\n") and card.isascii()
    words = " ".join(card.split())
    assert "`minillava reproduce --preset tiny` (seed 3) from `tiny-clip` and `tiny-vicuna`" in words
    assert "| stage1 | 1,200 | 252 | 0.317 |\n| stage2 | 1,100 | 533 | 0.151 |\n" in card
    assert "threads: 2, 15.5 minutes in all, 2.6 GB where it trained" in words
    assert "F1 0.00 before it, 0.92 after" in words and "in nats: 0.021 before stage 2, 0.055 after" in words
    assert f"\n\n{TABLE}\n\n" in card
    assert f"7.0 MB, sha256 `{hashlib.sha256(b'weights' * 1_000_000).hexdigest()}`" in words
