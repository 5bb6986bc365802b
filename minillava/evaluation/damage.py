"""What each removal costs in right answers: patches, attention edges by layer, heads; each beside its
control.

The same questions are asked again under every intervention of `ablation`. A removal that costs answers shows
that what was removed was used; as many patches or heads elsewhere show that it was not the removing itself.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minillava.ablation import blanked, drop_heads, knock_out
from minillava.attention import pieces, spelling
from minillava.conversation import IMAGE_TOKEN
from minillava.evaluation.metrics import bootstrap_interval, normalise_answer
from minillava.model import MiniLlava, Picture


@dataclass(frozen=True)
class Case:
    """A question whose evidence is known.

    Attributes:
        image, question, answer: what is asked, and the right answer.
        target: the patches of what the question is about, bool [grid, grid], every one it touches: what is
            left of it could still be read.
        reference: the words of the question that name it.
        other: the patches of another object, bool [grid, grid], that the target does not touch; None if there
            are none.
    """

    image: Picture
    question: str
    answer: str
    target: np.ndarray
    reference: str
    other: np.ndarray | None = None


@dataclass(frozen=True)
class Cost:
    """What one intervention costs, in shares of right answers, over the n cases it applies to.

    Attributes:
        removed, rows, layers: what was taken from which rows in which layers; "" where that says nothing.
        intact, accuracy: share right without and with the intervention.
        damage: their difference, and its 95 % bootstrap `interval` over cases.
    """

    removed: str
    rows: str
    layers: str
    n: int
    intact: float
    accuracy: float
    interval: tuple[float, float]

    @property
    def damage(self) -> float:
        return self.intact - self.accuracy


def to_markdown(costs: Sequence[Cost]) -> str:
    """The table, in percent and percentage points."""
    lines = [
        "| removed | from | layers | cases | intact | left | lost [95 %] |",
        "|---|---|---|" + "---:|" * 4,
    ]
    for c in costs:
        low, high = (100 * edge for edge in c.interval)
        lines.append(
            f"| {c.removed} | {c.rows} | {c.layers} | {c.n} | {100 * c.intact:.1f} | {100 * c.accuracy:.1f} "
            f"| {100 * c.damage:+.1f} [{low:+.1f}, {high:+.1f}] |"
        )
    return "\n".join(lines)


def by_layer(costs: Sequence[Cost]) -> tuple[list[str], dict, dict]:
    """What `attention_plots.damage_by_layer` draws: bands, and (loss, low, high) per kind of row and band."""
    bands = list(dict.fromkeys(cost.layers for cost in costs if cost.layers))
    drawn: dict[str, dict[str, list]] = {TARGET: {}, RANDOM: {}}
    for cost in costs:
        if cost.layers:
            drawn[cost.removed].setdefault(cost.rows, []).append((cost.damage, *cost.interval))
    return bands, drawn[TARGET], drawn[RANDOM]


TARGET, RANDOM, OTHER = "target", "as many other patches", "another object"
PATCHES, WORD, NEXT = "everything", "referring word", "the one after"
QUESTION, ANSWER = "all of the question", "answer"


def ablate(
    model: MiniLlava,
    cases: Sequence[Case],
    bands: Sequence[Sequence[int]] | None = None,
    heads: Sequence[tuple[int, int]] = (),
    seed: int = 0,
    batch_size: int = 64,
) -> list[Cost]:
    """Ask all cases again under every intervention: what each costs, beside its controls.

    Patches: the target's, as many others, another object's, replaced by the mean feature before the
    projector. Edges to the target's patches, and to as many others: from the referring word (each token
    of it), from the one token after it (the first that has read all of it), from all of the question (every
    position after the picture), from the answer's rows (the last of the prompt and those after it); in all
    layers, and in each band alone. Heads: those given, and as many others.

    Args:
        bands: layers to cut together; each layer by itself by default, or eight bands of a deeper model.
        heads: (layer, head) pairs to drop.
        seed: of the random patches and heads.

    Raises:
        ValueError: no cases, or a reference that is not in its question.
    """
    if not cases:
        raise ValueError("There is nothing to ablate: the list of cases is empty.")
    rng = np.random.default_rng(seed)
    depth = model.config.text_config.num_hidden_layers
    if bands is None:
        bands = [band.tolist() for band in np.array_split(np.arange(depth), min(depth, 8))]
    bands = [range(depth), *bands] if len(bands) > 1 else [range(depth)]
    random = [_as_many(case.target, rng) for case in cases]
    places = {
        TARGET: [case.target for case in cases],
        RANDOM: random,
        OTHER: [np.zeros_like(case.target) if case.other is None else case.other for case in cases],
    }
    batches = list(_batches(model, cases, batch_size))
    mean = sum(batch.features.sum((0, 1)) for batch in batches) / (len(cases) * random[0].size)
    work = _Work(model, cases, places, mean, batches)
    plans = [(removed, PATCHES, "", partial(work.without_patches, removed)) for removed in places]
    plans += [
        (removed, rows, _name(band, depth), partial(work.without_edges, removed, rows, band))
        for rows in (WORD, NEXT, QUESTION, ANSWER)
        for band in bands
        for removed in (TARGET, RANDOM)
    ]
    if heads:
        width = model.config.text_config.num_attention_heads
        heads = [(layer % depth, head % width) for layer, head in heads]  # negative ones count from the end
        spare = [(i, j) for i in range(depth) for j in range(width) if (i, j) not in set(heads)]
        others = [spare[i] for i in rng.permutation(len(spare))[: len(heads)]]
        for name, dropped in ((f"{len(heads)} heads", heads), (f"{len(others)} other heads", others)):
            plans.append((name, "", "", partial(work.without_heads, dropped)))

    intact = work.right(lambda batch: ({}, nullcontext()))
    known = np.array([case.other is not None for case in cases])
    costs = []
    for removed, rows, layers, intervene in tqdm(plans, desc="ablating", unit=" interventions"):
        here = known if removed == OTHER else np.ones_like(known)
        if here.any():
            left = work.right(intervene)
            lost = (intact - left)[here].tolist()
            means = float(intact[here].mean()), float(left[here].mean())
            costs.append(Cost(removed, rows, layers, len(lost), *means, bootstrap_interval(lost)))
    return costs


def _as_many(target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many patches as the target's, none of them its own (fewer, where it fills most of the picture)."""
    free = np.flatnonzero(~target)
    chosen = np.zeros(target.size, bool)
    chosen[rng.permutation(free)[: target.sum()]] = True
    return chosen.reshape(target.shape)


def _name(band: Sequence[int], depth: int) -> str:
    if len(band) == depth:
        return "all"
    return str(band[0]) if len(band) == 1 else f"{band[0]}-{band[-1]}"


Plan = Callable[["_Batch"], tuple[dict, AbstractContextManager]]
"""What to give `generate` besides the prompt, and what to hold while it runs."""


@dataclass(frozen=True)
class _Batch:
    """Prompts [B, T] with their patch features [B, N, D_v]; `cases` are indices into all cases."""

    cases: range
    prompts: dict[str, Tensor]
    features: Tensor


def _batches(model: MiniLlava, cases: Sequence[Case], size: int) -> Iterator[_Batch]:
    for start in range(0, len(cases), size):
        batch = cases[start : start + size]
        turns = [
            [{"from": "human", "value": f"{IMAGE_TOKEN}\n{c.question}"}, {"from": "gpt", "value": None}]
            for c in batch
        ]
        prompts = model.prepare(turns, [[c.image] for c in batch])
        with torch.no_grad():
            features = model.encode_images(prompts.pop("pixel_values"))
        yield _Batch(range(start, start + len(batch)), prompts, features)


@dataclass(frozen=True)
class _Work:
    """Cases, and what can be done to them."""

    model: MiniLlava
    cases: Sequence[Case]
    places: dict[str, list[np.ndarray]]
    mean: Tensor
    batches: list[_Batch]

    def right(self, plan: Plan) -> np.ndarray:
        """Which cases are answered rightly under a plan, 0 or 1 each."""
        given = []
        for batch in self.batches:
            changes, held = plan(batch)
            with held:
                new = self.model.generate(
                    **batch.prompts, **{"image_features": batch.features} | changes, max_new_tokens=8
                )
            given += self.model.tokenizer.batch_decode(new, skip_special_tokens=True)
        return np.array(
            [
                float(normalise_answer(answer.strip()) == normalise_answer(case.answer))
                for answer, case in zip(given, self.cases, strict=True)
            ]
        )

    def without_patches(self, removed: str, batch: _Batch):
        gone = self._patches(removed, batch)
        return {"image_features": blanked(batch.features, gone, self.mean)}, nullcontext()

    def without_edges(self, removed: str, rows: str, layers: Sequence[int], batch: _Batch):
        ids = batch.prompts["input_ids"]
        image = ids == self.model.config.image_token_id
        columns = torch.zeros_like(image)
        columns[image] = self._patches(removed, batch).flatten()
        sources = torch.zeros_like(image)
        for row, case in enumerate(batch.cases):
            sources[row, self._sources(rows, ids[row].tolist(), self.cases[case])] = True
        return {}, knock_out(self.model, sources, columns, layers)

    def without_heads(self, heads: Sequence[tuple[int, int]], batch: _Batch):
        return {}, drop_heads(self.model, heads)

    def _patches(self, removed: str, batch: _Batch) -> Tensor:
        chosen = np.stack([self.places[removed][case].reshape(-1) for case in batch.cases])
        return torch.from_numpy(chosen).to(self.model.device)

    def _sources(self, rows: str, ids: list[int], case: Case) -> list[int]:
        """Positions of the rows of one kind in a prompt."""
        after = len(ids) - ids[::-1].index(self.model.config.image_token_id)
        if rows == ANSWER:
            return [len(ids) - 1]
        if rows == QUESTION:
            return list(range(after, len(ids)))
        tokens = pieces(ids[after:], self.model.tokenizer)
        at = "".join(tokens).find(case.reference)
        if at < 0:
            raise ValueError(f"{case.reference!r} is not in the question {case.question!r}.")
        word = [after + index for index in spelling(tokens, at, at + len(case.reference))]
        return [word[-1] + 1] if rows == NEXT else word
