"""Exercises of lesson 02: patches, layers, and which patches are alike."""

from typing import Any

import torch
import torch.nn.functional as F

from minillava.course.exercises import Exercise, is_number, same_tensor


def image_tokens(size, patch):
    return (size // patch) ** 2


def _image_tokens(answer: Any) -> str | None:
    for size, patch, wanted in ((336, 14, 576), (96, 12, 64), (100, 12, 64)):
        found = answer(size, patch)
        if not is_number(found):
            return f"it returns a {type(found).__name__}; a number is wanted."
        if found == wanted:
            continue
        where = f"for a picture of {size} pixels and patches of {patch}"
        if found == size // patch:
            return f"{where}, {found} is how many stand in one row; there are as many rows."
        if found == wanted + 1:
            return f"{where}, {found} counts CLS; LLaVA drops it."
        if size % patch:
            return f"{where} it returns {found}; {size // patch} fit side by side, the rest is cut off."
        return f"{where} it returns {found}; wanted is {wanted}."
    return None


def cut(pixels, patch):
    channels, size, _ = pixels.shape
    grid = size // patch
    tiles = pixels.reshape(channels, grid, patch, grid, patch)
    return tiles.permute(1, 3, 0, 2, 4).reshape(grid * grid, channels * patch * patch)


def _cut(answer: Any) -> str | None:
    pixels = torch.arange(2 * 4 * 4.0).reshape(2, 4, 4)
    wanted = cut(pixels, 2)
    found = answer(pixels, 2)
    if (wrong := same_tensor(found, wanted)) is None:
        return None
    if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
        return wrong
    if torch.equal(found, pixels.reshape(4, 8)):
        return (
            "a reshape alone cuts the picture into runs of numbers, not into squares: its first row holds "
            "one channel's upper half. Give rows and columns axes of their own first."
        )
    if torch.equal(found, wanted.reshape(2, 2, 8).transpose(0, 1).reshape(4, 8)):
        return "the patches come column by column; CLIP counts row by row from the top left."
    if torch.equal(found.sort(dim=1).values, wanted.sort(dim=1).values):
        return "each patch has its own numbers, in another order: all of channel 0 first, then channel 1."
    return wrong


def layers():
    return 23


def _layers(answer: Any) -> str | None:
    if answer == 23:
        return None
    known = {
        22: "two fewer than all; but hidden_states[-1] is what the last layer gives, so [-2] is one fewer.",
        24: "that is all of them, hidden_states[-1]; one from the end is left out.",
        25: "25 is how many hidden states there are: one before the first layer, and one after each.",
        -2: "-2 is the index; how many layers have run before that hidden state exists?",
    }
    if not is_number(answer):
        return f"a number of layers is wanted, not a {type(answer).__name__}."
    return known.get(
        int(answer), f"{answer}? Index 0 is before the first layer, index 24 after the last one."
    )


def nearest(query, others):
    return F.cosine_similarity(query[None], others).argmax().item()


def _nearest(answer: Any) -> str | None:
    query = torch.tensor([1.0, 1.0])
    others = torch.tensor([[9.0, 0.0], [0.5, -0.5], [4.0, 3.0], [0.6, 1.4]])
    found = answer(query, others)
    if not is_number(found):
        return f"it returns a {type(found).__name__}; the index of one row is wanted."
    if found == 2:
        return _nearest_of_many(answer)
    if found == 0:
        return "row 0 has the largest dot product because it is long. Compare directions: cosine similarity."
    if found == 3:
        return "row 3 is the closest point; row 2 points in a direction that is more alike, only further out."
    if not float(found).is_integer():
        return f"{found:.3g} is a similarity; wanted is the index of the row that has it."
    return f"it returns row {found}; row 2 has the direction most like the query's."


def _nearest_of_many(answer: Any) -> str | None:
    query = torch.tensor([1.0, 2.0])
    others = torch.tensor([[-1.0, -2.0], [1.0, 1.9], [0.1, 9.0], [90.0, 1.0]])
    found = answer(query, others)
    if found == nearest(query, others):
        return None
    if found == 0:
        return "row 0 of another table points away from the query; a cosine of -1 is the least alike."
    return (
        f"right for one table; of another it returns row {found}, not 1. Is each *row* brought to length 1?"
    )


EXERCISES = {
    "count": Exercise(
        statement=(
            "Write `image_tokens(size, patch)`: how many patches CLIP cuts a square picture of `size` "
            "pixels into, which is how many positions the picture takes in the language model."
        ),
        hint="How many patches fit side by side? There are as many rows as columns.",
        solution=image_tokens,
        mistake=_image_tokens,
        shows="576 of LLaVA-1.5's 2,048 positions go to the picture. At 224 pixels it was 256.",
    ),
    "cut": Exercise(
        statement=(
            "Write `cut(pixels, patch)`: a picture `[channels, size, size]` → its patches `[patches, "
            "channels * patch * patch]`, row by row from the top left, each with all of channel 0 first."
        ),
        hint=(
            "reshape to [channels, grid, patch, grid, patch], bring the two grid axes to the front with "
            "permute, then reshape again."
        ),
        solution=cut,
        mistake=_cut,
        shows="This, times one matrix, is all that CLIP does to pixels before its first layer.",
    ),
    "layer": Exercise(
        statement=(
            "LLaVA-1.5's tower has 24 layers and so 25 hidden states. How many layers have run when "
            "`hidden_states[-2]` is read? Set `layers = ...`."
        ),
        hint="hidden_states[0] is what enters the first layer: no layer has run. Which index is -2 of 25?",
        solution=layers,
        mistake=_layers,
        shows="The 24th layer is in the file and never needed: `encode_patches` stops before it.",
    ),
    "nearest": Exercise(
        statement=(
            "Write `nearest(query, others)`: a vector `[D]` and a table `[M, D]` → the index of the row "
            "whose *direction* is most like the query's."
        ),
        hint=(
            "The cosine is the dot product of two vectors of length 1: torch.nn.functional.cosine_similarity."
        ),
        solution=nearest,
        mistake=_nearest,
        shows="Long vectors win every dot product; a direction says what a vector means.",
    ),
}
