"""Exercises of lesson 03: the projector and the splice."""

from typing import Any

import torch
import torch.nn.functional as F

from minillava.course.exercises import Exercise, is_number, same_tensor


def parameters(vision, text):
    return vision * text + text + text * text + text


def _parameters(answer: Any) -> str | None:
    vision, text = 1024, 4096
    found = answer(vision, text)
    if not is_number(found):
        return f"it returns a {type(found).__name__}; a number is wanted."
    known = {
        vision * text + text: "that is the first layer alone, LLaVA v1's linear projector.",
        vision * text + text * text: "the weights are right; each layer has a bias as well.",
        2 * (vision * text + text): "the second layer goes from the text width to the text width.",
        vision * text + vision + text * text + text: "a bias has as many numbers as its layer puts out.",
        2 * (text * text + text): "the first layer takes in the vision width.",
        vision * vision + vision + vision * text + text: "the first layer already ends in the text width.",
        vision * text + text + text * text: "the second layer has a bias, too.",
    }
    if found == parameters(vision, text):
        other = answer(128, 192)
        if other == parameters(128, 192):
            return None
        return f"right for LLaVA-1.5, but for the widths 128 and 192 it returns {other}."
    return known.get(int(found), f"for the widths {vision} and {text} it returns {found:,}.")


def project(features, w1, b1, w2, b2):
    hidden = F.gelu(features @ w1.T + b1)
    return hidden @ w2.T + b2


def _project(answer: Any) -> str | None:
    draw = torch.Generator().manual_seed(3)
    features, w1, b1, w2, b2 = (
        torch.randn(shape, generator=draw) for shape in ((5, 2), (3, 2), (3,), (4, 3), (4,))
    )
    inner = features @ w1.T + b1
    wrong = same_tensor(answer(features, w1, b1, w2, b2), project(features, w1, b1, w2, b2))
    if wrong is None:
        return None
    found = answer(features, w1, b1, w2, b2)
    known = {
        "there is nothing between the two layers: without GELU they are one linear map.": inner @ w2.T + b2,
        "that is ReLU; the projector's activation is GELU.": F.relu(inner) @ w2.T + b2,
        "that is GELU's tanh approximation; LLaVA uses the exact one, F.gelu's default.": (
            F.gelu(inner, approximate="tanh") @ w2.T + b2
        ),
        "the output went through GELU as well; it stands between the layers only.": F.gelu(
            F.gelu(inner) @ w2.T + b2
        ),
        "the biases are missing.": F.gelu(features @ w1.T) @ w2.T,
        "the second layer's bias is missing.": F.gelu(inner) @ w2.T,
        "the first layer's bias is missing.": F.gelu(features @ w1.T) @ w2.T + b2,
        "the first bias comes after GELU; it belongs to the layer before.": (F.gelu(features @ w1.T) + b1)
        @ w2.T
        + b2,
        "that is the first layer alone.": F.gelu(inner),
    }
    for sentence, value in known.items():
        if same_tensor(found, value) is None:
            return sentence
    return wrong


def splice(ids, table, patches, image_id):
    rows = table[ids]
    rows[ids == image_id] = patches
    return rows


def _splice(answer: Any) -> str | None:
    ids = torch.tensor([1, 4, 4, 4, 2, 3])
    table = torch.arange(10.0).reshape(5, 2)
    patches = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    wanted = splice(ids, table, patches, 4)
    before = table.clone()
    found = answer(ids, table.clone(), patches.clone(), 4)
    wrong = same_tensor(found, wanted)
    if wrong is None:
        kept = table.clone()
        answer(ids, kept, patches, 4)
        if not torch.equal(kept, before):
            return "it overwrites the embedding table; copy the rows first."
        swapped = torch.tensor([4, 3, 3, 3, 4, 4])
        again = answer(swapped, table.clone(), patches, 3)
        if same_tensor(again, splice(swapped, table, patches, 3)) is not None:
            return "right where the placeholder's id is 4; it has to come from `image_id`."
        return None
    if isinstance(found, torch.Tensor) and found.shape == (len(ids) + len(patches), 2):
        return "the patches were put in beside the placeholders; they take their places."
    if isinstance(found, torch.Tensor) and found.shape == wanted.shape:
        if torch.equal(found, table[ids]):
            return "the placeholders still have their own embedding; no patch has come in."
        if torch.equal(found[1:4], patches.flip(0)):
            return "the patches stand in reverse order."
        if torch.equal(found[1:4], patches[:1].expand(3, 2)):
            return "each placeholder has the first patch; they are to get one each, in order."
        if torch.equal(found[1:4], patches):
            return "the patches are right, but the words beside them have changed."
    return wrong


def rows():
    return 42 - 1 + 576


def _length(answer: Any) -> str | None:
    if answer == 617:
        return None
    if not is_number(answer):
        return f"a number of rows is wanted, not a {type(answer).__name__}."
    known = {
        618: "that is one too many: <image> gives way to the patches, and CLS is dropped.",
        42: "the picture takes more than the one position that stands for it in the text.",
        577: "those are the patches and one more; the words count too.",
        576: "those are the patches alone; the words count too.",
        619: "CLS is dropped, and <image> gives way to the patches.",
    }
    return known.get(int(answer), f"{answer}? One of the 42 is replaced by 24 × 24 patches, the others stay.")


EXERCISES = {
    "parameters": Exercise(
        statement=(
            "Write `parameters(vision, text)`: how many numbers `mlp2x_gelu` learns between a vision "
            "tower of width `vision` and a language model of width `text`."
        ),
        hint=(
            "Two layers: vision → text and text → text. A layer from a to b has a * b weights and b biases."
        ),
        solution=parameters,
        mistake=_parameters,
        shows="20,979,712 for LLaVA-1.5-7B: 0.3 % of the model, and all that stage 1 trains.",
    ),
    "project": Exercise(
        statement=(
            "Write `project(features, w1, b1, w2, b2)`: the projector's forward pass from plain tensors. "
            "Weights are as `nn.Linear` keeps them, `[out, in]`; F is `torch.nn.functional`."
        ),
        hint="A layer is features @ weight.T + bias. One activation stands between the two layers: F.gelu.",
        solution=project,
        mistake=_project,
        shows="Three lines. Everything else that LLaVA adds to its two models is bookkeeping.",
    ),
    "splice": Exercise(
        statement=(
            "Write `splice(ids, table, patches, image_id)`: token ids `[T]`, the embedding table `[V, D]`"
            " and a picture's projected patches `[N, D]` → what the language model reads, `[T, D]`. N of "
            "the ids are `image_id`."
        ),
        hint="table[ids] looks all rows up, the placeholders' too. Which rows are to be overwritten?",
        solution=splice,
        mistake=_splice,
        shows="After this line nothing knows which rows came from a picture.",
    ),
    "length": Exercise(
        statement=(
            "A prompt has 42 tokens, one of them `<image>`. How many rows does LLaVA-1.5's language model"
            " read? Set `rows = ...`."
        ),
        hint="The placeholder goes, 24 × 24 patches come.",
        solution=rows,
        mistake=_length,
        shows="That is why max_length 2048 leaves 1,472 for all the words of a conversation.",
    ),
}
