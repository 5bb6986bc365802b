"""Where a model looked for one answer, as files: a figure, and a page on which each word shows its map."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minillava import attention_html, attention_plots, plots
from minillava.attention import answer_maps
from minillava.images import open_image
from minillava.model import MiniLlava, Picture
from minillava.passage import passage


def attend(
    model: MiniLlava,
    image: Picture,
    question: str,
    out: Path,
    *,
    word: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    methods: bool = False,
    max_new_tokens: int = 96,
) -> dict[str, Any]:
    """Ask, draw the answer word by word, or the map of one `word`, as the PNG `out`, and write the page of
    all words beside it, under the same name with .html.

    Maps are means over all layers and heads, or of the one `layer` and `head`. `methods` adds those of
    `relevance` to the page.

    Returns what was found, as JSON takes it: the question, the answer, the `word` (or the whole answer) and
    its `heat` over the patches [grid, grid]; for each of its tokens and for the mean of them how much of the
    attention is on the picture, on its padding, and on the strongest patch, `box` in the picture's pixels.

    Raises ValueError for an empty answer without a `word`, and for a `word` that nobody said.
    """
    layers, heads = (None if one is None else [one] for one in (layer, head))
    maps = answer_maps(model, image, question, layers, heads, max_new_tokens=max_new_tokens)
    if word is None:
        tokens, rows = maps.answered, list(range(len(maps.answered.tokens)))
        if not rows:
            raise ValueError("The answer is empty. Choose a word of the question with --word.")
    else:
        if not word.strip():
            raise ValueError("--word is empty: name a word of the question or of the answer.")
        # A word of the question points at what it names better than the answer's do; a part of one does not.
        tokens = max((maps.prompt, maps.answered), key=lambda said: (said.says(word), word in said.text))
        if word not in tokens.text:
            raise ValueError(
                f"--word {word!r} is neither in the question {question!r} nor in the answer {maps.answer!r}."
            )
        rows = tokens.find(word)
    everywhere, inside = tokens.maps[rows].mean(axis=(1, 2)), maps.geometry.inside  # [rows, grid, grid]
    per_token = everywhere * inside
    heat = per_token.mean(axis=0)  # [grid, grid]
    row, column = (int(i) for i in np.unravel_index(heat.argmax(), heat.shape))

    picture = open_image(image)
    edges = zip(maps.geometry.box(row, column), (0, 0, 0, 0), picture.size * 2, strict=True)
    box = [round(min(max(float(edge), low), high), 1) for edge, low, high in edges]
    small = attention_html.reduced(picture)
    geometry = replace(maps.geometry, width=small.width, height=small.height)
    said = [tokens.tokens[row] for row in rows]
    if word is None:
        heats = [geometry.heatmap(one) for one in per_token]
        figure = attention_plots.word_by_word(small, said, heats, per_token.sum(axis=(1, 2)))
    else:
        figure = plots.attention_overlay(small, geometry.heatmap(heat), title=word, mass=float(heat.sum()))
    explained = None
    if methods and maps.answered.tokens:
        explained = passage(model, picture, question, max_new_tokens=max_new_tokens)
    page = attention_html.page(picture, question, maps, attention_html.views(maps, explained))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(figure.png())
    out.with_suffix(".html").write_text(page, encoding="utf-8")
    return {
        "question": question,
        "answer": maps.answer,
        "word": maps.answer if word is None else word,
        "tokens": [
            {"text": text, "image_mass": float(one.sum()), "peak": float(one.max())}
            for text, one in zip(said, per_token, strict=True)
        ],
        "layers": maps.layers,
        "heads": maps.heads,
        "image_mass": float(heat.sum()),
        "padding_mass": float((everywhere * ~inside).mean(axis=0).sum()),
        "strongest": {
            "row": row,
            "column": column,
            "box": box,
            "share": float(heat.max()),
        },
        "heat": heat.tolist(),
    }
