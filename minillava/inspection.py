"""One sample as training sees it: its pictures, its prompt, and which of its tokens are learned."""

import base64
import html
import io
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from transformers import PreTrainedTokenizerBase

from minillava.conversation import Encoded, encode, show, to_html
from minillava.images import open_image
from minillava.model import MiniLlava
from minillava.records import Record, named, picture_source, pictures, text_problem

THUMBNAIL = 240
"""Longest edge of a picture on the page, in pixels."""


@dataclass(frozen=True)
class Sample:
    """A record, encoded. A notebook shows it in color (its last line is enough); `print` colors a terminal.

    `pictures` are opened and as they are in the record; `encoded` has prompt, ids, labels and problems.
    """

    name: str
    pictures: list[Image.Image]
    encoded: Encoded
    tokenizer: PreTrainedTokenizerBase

    @property
    def summary(self) -> str:
        """Positions, and how many of them are learned."""
        return f"{len(self.encoded.input_ids)} positions, {self.encoded.n_supervised} supervised"

    def __str__(self) -> str:
        lines = [self.name]
        for number, image in enumerate(self.pictures):
            lines.append(f"picture {number}: {image.width} x {image.height} pixels")
        lines += [show(self.encoded, self.tokenizer), f"{self.summary} (bold green)"]
        return "\n".join(lines + [f"problem: {problem}" for problem in self.encoded.problems])

    def _repr_html_(self) -> str:
        problems = "".join(
            f'<p style="color:#b71c1c;margin:4px 0">problem: {html.escape(problem)}</p>'
            for problem in self.encoded.problems
        )
        return (
            f'<div style="font-family:sans-serif"><p style="margin:4px 0"><b>{html.escape(self.name)}</b></p>'
            f"{''.join(map(_picture, self.pictures))}"
            f"{to_html(self.encoded, self.tokenizer)}"
            f'<p style="margin:4px 0">{self.summary} (green, underlined)</p>{problems}</div>'
        )

    def page(self) -> str:
        """The same as a page of its own, which a browser opens without a network."""
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<title>{html.escape(self.name)}</title></head><body style="background:#fff;max-width:60em;'
            f'margin:2em auto;padding:0 1em">{self._repr_html_()}</body></html>\n'
        )


def _picture(image: Image.Image) -> str:
    """A picture inside the text, all at one size, with the true one below."""
    small, stream = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(stream, "PNG")
    content = base64.b64encode(stream.getvalue()).decode()
    size = f"{image.width} × {image.height} pixels"
    width = round(THUMBNAIL * image.width / max(image.size))
    return (
        '<figure style="display:inline-block;margin:4px 8px 4px 0">'
        f'<img alt="the picture, {size}" style="width:{width}px" src="data:image/png;base64,{content}">'
        f'<figcaption style="font-size:small">{size}</figcaption></figure>'
    )


def inspect(
    record: Record,
    model: MiniLlava,
    template: str = "v1",
    image_root: str | Path | None = None,
    max_length: int | None = None,
    index: int = 0,
) -> Sample:
    """What `model` would learn from a record: the last line of a notebook cell shows it in color.

    `template` is "v1" (stage 2) or "plain" (stage 1), `image_root` where the record's paths begin,
    `max_length` the positions that are kept, `index` the record's number, for its name.

    Raises ValueError or FileNotFoundError, naming the record, for a picture that does not open and turns that
    are none. A record that is merely poor is shown, with its problems.
    """
    return sample(record, model.tokenizer, model.num_image_tokens, template, image_root, max_length, index)


def sample(
    record: Record,
    tokenizer: PreTrainedTokenizerBase,
    num_image_tokens: int = 576,
    template: str = "v1",
    image_root: str | Path | None = None,
    max_length: int | None = None,
    index: int = 0,
) -> Sample:
    """As `inspect`, with the two things it takes of a model: its tokenizer, and positions a picture."""
    name = named(record, index)
    try:
        problem = text_problem(record)
        if problem and problem[0] == "malformed conversation":
            raise ValueError(f"{problem[1]}.")
        sources = [picture_source(picture, image_root) for picture in pictures(record)]
        turns = record["conversations"]
        encoded = encode(turns, tokenizer, template, bool(sources), num_image_tokens, max_length)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    opened = []
    for number, source in enumerate(sources):
        place = f"{source}, " if isinstance(source, Path) else ""
        opened.append(open_image(source, f"{place}picture {number} of {name}"))
    if problem:
        encoded = replace(encoded, problems=(*encoded.problems, ": ".join(problem)))
    return Sample(name, opened, encoded, tokenizer)
