"""Toybox: a procedural world that draws pictures, describes them, asks about them and knows every answer.

Symbols first: `scene.py` says what is there, `draw.py` turns it into pixels, `language.py` into captions,
questions and answers, `records.py` into LLaVA-format records with splits. Item `i` of split `s` under seed
`k` is the same on every machine, whatever was asked for before it. Python, Pillow and numpy; no torch.
"""
