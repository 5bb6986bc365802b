"""Does attention point at what a word is about, and does the answer depend on it? The table, on Toybox.

Every number stands beside its baselines: the same head's map against another object of the picture, the
best head of the same network untrained, a map that points at the center, the object's share of the picture.
Heads, rows and thresholds are chosen on one half of the pictures and scored on the other. Brackets are 95 %
bootstrap intervals over pictures.

why "any head" as well: random weights may happen to match the word "red" with red patches in one head of
many, and a choice finds that head on either half. The mean over all heads is a score without a choice, and
there the right object must not be ahead of another in a model that has learned nothing.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from tqdm import tqdm

from minillava.ablation import mean_feature, perturbation
from minillava.evaluation import damage
from minillava.evaluation.attention_report import AttentionReport, Line
from minillava.evaluation.looking import Look, Looks, Sight, geometry, look, toybox_sights, untrained
from minillava.grounding import MEASURES, chosen_elsewhere, measure, pointing, specificity
from minillava.heads import find_heads
from minillava.model import MiniLlava
from minillava.passage import Passage, passage
from minillava.relevance import METHODS

ROWS = {
    "word": "referring word",
    "color": "caption: color",
    "shape": "caption: shape",
    "answer": "answer's row",
}


def evaluate_attention(
    model: MiniLlava,
    pictures: int = 500,
    seeds: Sequence[int] = (0, 1, 2),
    controls: Mapping[str, MiniLlava] | None = None,
    explained: int = 200,
    ablated: int = 500,
    seen: Mapping[int, Sequence[Sight]] | None = None,
) -> AttentionReport:
    """Measure where a model looks, and what it costs not to let it.

    Args:
        pictures: of Toybox's test split, drawn anew for each of `seeds`.
        controls: other models to measure the same way, such as one trained on shuffled answers. An untrained
            one is always there, with fresh weights for every seed.
        explained: on how many pictures of the first seed the methods of relevance are compared; 0 leaves
            that out.
        ablated: how many pictures, of all seeds alike, are asked about again under every intervention, which
            takes longest; 0 leaves that out.
        seen: seed -> other pictures to measure on, in place of Toybox's.

    Raises:
        ValueError: no seeds, a seed with fewer than two pictures, or one picture to explain.
    """
    if not seen and not seeds:
        raise ValueError("There is nothing to look at: give at least one seed.")
    seen = seen or {seed: toybox_sights("test", pictures, seed) for seed in seeds}
    models: dict[str, list[Line]] = {}
    looks, by_seed = {}, {}
    for seed, some in seen.items():
        looks[seed], bare = look(model, some), look(untrained(model, seed), some)
        by_seed[seed] = lines(looks[seed], bare)
        _add(models, "model", by_seed[seed])
        _add(models, "untrained", lines(bare, bare))
        for name, control in (controls or {}).items():
            _add(models, name, lines(look(control, some), bare))
    first = next(iter(seen))
    best = best_heads(looks[first].word)
    share = -(-ablated // len(seen))  # of each seed's pictures
    cases = [case(model, sight) for some in seen.values() for sight in some[:share]]
    return AttentionReport(
        accuracy=float(np.mean([one.right for found in looks.values() for one in found.answer])),
        models=models,
        seeds=by_seed,
        heads={"chosen with boxes": best, "found without boxes": find_heads(_last_token(looks[first]))},
        methods=compare_methods(model, seen[first][:explained]) if explained else {},
        costs=damage.ablate(model, cases, heads=best) if cases else [],
        grids={
            row: np.mean([head_scores(getattr(one, name)) for one in looks.values()], axis=0)
            for name, row in ROWS.items()
        },
    )


def _add(models: dict[str, list[Line]], name: str, more: list[Line]) -> None:
    known = models.get(name)
    models[name] = [a.join(b) for a, b in zip(known, more, strict=True)] if known else more


def lines(found: Looks, bare: Looks) -> list[Line]:
    """Every measure of every kind of row; `bare` are an untrained model's looks at the same pictures."""
    made = []
    for name, row in ROWS.items():
        mine, theirs = getattr(found, name), getattr(bare, name)
        right = np.array([one.right for one in mine])
        scored, untrained_scored = measure(_examples(mine)), measure(_examples(theirs))
        for kind in MEASURES:
            scores = scored[kind].scores()
            made.append(
                Line(
                    row,
                    kind,
                    scores["best_head"],
                    {
                        "other object": scores["other_object"],
                        "untrained": untrained_scored[kind].scores()["best_head"],
                        "center": scores["center"],
                        "area": scores["area"],
                        "mean map": scores["mean_map"],
                        "any head": _any(scored[kind].heads),
                        "any head, other": _any(scored[kind].other),
                    },
                    right,
                )
            )
    made += _by_kind_of_words(found, next(line for line in made if line.measure == "pointing"))
    made.append(_specificity(found, bare))
    made.append(_without_boxes(found, bare))
    return made


def _by_kind_of_words(found: Looks, line: Line) -> list[Line]:
    """The referring words' line of those that say how the object looks, and of those that say where it is."""
    by_place = np.array([one.by_place for one in found.word])
    return [
        Line(
            line.row,
            f"{line.measure}, named by its {how}",
            line.scores[these],
            {name: scores[these] for name, scores in line.baselines.items()},
            line.right[these],
        )
        for how, these in (("looks", ~by_place), ("place", by_place))
    ]


def _any(scores: np.ndarray) -> np.ndarray:
    """Mean over all candidates, [n, ...] -> [n]: what any head scores, without a choice."""
    return scores.reshape(len(scores), -1).mean(1)


def _specificity(found: Looks, bare: Looks) -> Line:
    """Of the pictures with two questions: does each question draw the map to its own object?"""

    def pairs(looks: Looks) -> np.ndarray:
        both = [(a, b) for a, b in zip(looks.word, looks.also, strict=True) if b]
        return np.array([specificity(a.maps, a.cover, b.maps, b.cover) for a, b in both])

    right = np.array([a.right for a, b in zip(found.word, found.also, strict=True) if b])
    mine = pairs(found)
    if len(mine) < 2:  # too few to choose a head on one half
        return Line("referring word", "specificity", np.full(len(mine), np.nan), _unknown(len(mine)), right)
    (scores,), (chance,) = chosen_elsewhere(mine), chosen_elsewhere(pairs(bare))
    baselines = _unknown(len(scores)) | {"untrained": chance, "any head": _any(mine)}
    return Line("referring word", "specificity", scores, baselines, right)


def _unknown(count: int) -> dict[str, np.ndarray]:
    """The columns of a line, with nothing in them."""
    columns = ("other object", "untrained", "center", "area", "mean map", "any head", "any head, other")
    return dict.fromkeys(columns, np.full(count, np.nan))


def _without_boxes(found: Looks, bare: Looks) -> Line:
    """Pointing of the mean map of three heads that were found without knowing where anything is."""

    def points(looks: Looks, at_other: bool = False) -> np.ndarray:
        maps = _last_token(looks)
        chosen = np.array(find_heads(maps))
        scores = []
        for one, mine in zip(looks.word, maps, strict=True):
            heat = mine[chosen[:, 0], chosen[:, 1]].mean(0)
            covers = one.others if at_other else [one.cover]
            scores.append(np.mean([pointing(heat, cover) for cover in covers]) if covers else np.nan)
        return np.array(scores)

    baselines = _unknown(len(found.word))
    baselines |= {"other object": points(found, at_other=True), "untrained": points(bare)}
    right = np.array([one.right for one in found.word])
    name = "pointing, heads found without boxes"
    return Line("referring word", name, points(found), baselines, right)


def _last_token(looks: Looks) -> np.ndarray:
    """Maps of the row of the referring words' last token, [n, L, H, grid, grid]."""
    return np.stack([one.maps[1] for one in looks.word])


def _examples(looks: Sequence[Look]) -> list[tuple]:
    return [(one.maps, one.cover, one.others) for one in looks]


def head_scores(looks: Sequence[Look]) -> np.ndarray:
    """How often each head's map points at the object, from its best row: [L, H]."""
    return np.mean([pointing(one.maps, one.cover) for one in looks], axis=0).max(0)


def best_heads(looks: Sequence[Look], count: int = 3) -> list[tuple[int, int]]:
    """(layer, head) of the heads that point best, the best first."""
    scores = head_scores(looks)
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    return [(int(i // scores.shape[1]), int(i % scores.shape[1])) for i in order]


def case(model: MiniLlava, sight: Sight) -> damage.Case:
    """A sight as a question whose evidence can be taken away."""
    where = geometry(model, sight)
    (box,) = sight.asked["boxes"]
    others, target = sight.others(box), where.cells(box) > 0
    other = (where.cells(others[sight.seed % len(others)]) > 0) & ~target if others else None
    return damage.Case(
        image=sight.image,
        question=sight.asked["question"],
        answer=sight.asked["answer"],
        target=target,
        reference=sight.asked["references"][0],
        other=other if other is not None and other.any() else None,
    )


def compare_methods(model: MiniLlava, seen: Sequence[Sight]) -> dict[str, dict[str, tuple[float, float]]]:
    """Every method of `relevance` on the first token of the answers that `model` gives.

    Raises:
        ValueError: fewer than two pictures.
    """
    mean = mean_feature(model, [sight.image for sight in seen])
    rng = np.random.default_rng(0)
    examples: dict[str, list] = {name: [] for name in METHODS}
    curves: dict[str, list] = {name: [] for name in METHODS}
    by_lot = []
    for sight in tqdm(seen, desc="explaining", unit=" answers"):
        said = passage(model, sight.image, sight.asked["question"], max_new_tokens=8)
        if not said.answer_ids:  # nothing was said, so nothing can be explained
            continue
        (box,) = sight.asked["boxes"]
        others = [said.geometry.cells(other) for other in sight.others(box)]
        by_lot.append(_areas(said, rng.random((said.geometry.grid,) * 2), mean))
        for name, method in METHODS.items():
            heat = method(said).maps[0]
            examples[name].append((heat[None, None], said.geometry.cells(box), others))
            curves[name].append(_areas(said, heat, mean))
    found = {}
    for name in METHODS:
        scored = {kind: grounding.summary() for kind, grounding in measure(examples[name]).items()}
        found[name] = {kind: (means["best_head"], means["other_object"]) for kind, means in scored.items()}
        areas, random = np.mean(curves[name], axis=0), np.mean(by_lot, axis=0)
        for i, kind in enumerate(("deletion", "insertion")):
            found[name][kind] = (float(areas[i]), float(random[i]))
    return found


def _areas(said: Passage, heat: np.ndarray, mean) -> tuple[float, float]:
    """Areas under the curves of deletion and insertion."""
    return tuple(float(curve.mean()) for curve in perturbation(said, heat, mean))
