"""What several tests of weight files and of records need."""

import io

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from minillava.cli import main
from minillava.data import InstructionDataset

SIZE, PATCHES = 8, 4
"""Edge of a prepared picture in pixels, and its patches."""

QUESTION = "What color is the ball?"
"""Asked of the tiny random models, whose tokenizer has its words."""


def rewrite(folder, change):
    """Replace the weight file of `folder` by `change(its tensors)`."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file({k: v.clone() for k, v in tensors.items()}, folder / "model.safetensors")


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def png(color="red", size=(6, 4)) -> bytes:
    """The file of a picture of one color."""
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return stream.getvalue()


def record(id, image=None, answer="Red.", question="What color?"):
    """A record of one round, about `image` if there is one."""
    prefix = "<image>\n" if image is not None else ""
    turns = [{"from": "human", "value": prefix + question}, {"from": "gpt", "value": answer}]
    return {"id": id, **({} if image is None else {"image": image}), "conversations": turns}


def dataset(records, tokenizer, **changes):
    """Records as stage 2 takes them, with pictures of SIZE pixels in PATCHES patches."""
    options = dict(template="v1", aspect="pad", image_size=SIZE, num_image_tokens=PATCHES)
    return InstructionDataset(records, tokenizer, **(options | changes))


def mistake(capsys, *argv: str) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    assert main(list(argv)) == 2
    error = capsys.readouterr().err.strip()
    assert error.splitlines()[-1].startswith("minillava: ")
    assert "Traceback" not in error
    return error.splitlines()[-1]


def pictures_and_texts(picture) -> list[dict]:
    """Six records about one picture, and two of text alone."""
    turns = [
        {"from": "human", "value": "<image>\nWhat is there?"},
        {"from": "gpt", "value": "a red thing"},
    ]
    text = [{"from": "human", "value": "Say yes."}, {"from": "gpt", "value": "yes"}]
    return [
        {"id": f"r{i}", "image": picture, "conversations": turns} for i in range(6)
    ] + [{"id": f"t{i}", "conversations": text} for i in range(2)]


def captions(records):
    return [r for r in records if "image" in r]
