"""How the bases are made: the tokenizer, tiny-CLIP (pictures and captions), tiny-Vicuna (text alone)."""
