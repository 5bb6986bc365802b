"""The whole of LLaVA's recipe in one call: bases, stage 1, stage 2, held-out accuracy, figures."""

import json
import os
import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from minillava import checkpoints, plots
from minillava.attention import AnswerMaps, answer_maps
from minillava.config import IGNORE_INDEX, PRESETS, Preset
from minillava.data import Collator, InstructionDataset
from minillava.device import usable
from minillava.evaluation import Report, evaluate
from minillava.evaluation.metrics import multiset_f1
from minillava.evaluation.scoring import phrases
from minillava.evaluation.toybox import BASELINES, ask, held_out
from minillava.grounding import measure
from minillava.images import open_image
from minillava.model_card import write_model_card
from minillava.toybox import records, store
from minillava.toybox.draw import draw
from minillava.toybox.language import TYPES, phrase
from minillava.toybox.mix import STAGE_2
from minillava.toybox.scene import Scene
from minillava.training import StageResult, train_stage

VALIDATION = 128
"""Records held out to watch the loss while a stage trains."""


@dataclass
class Reproduction:
    """What a run found and where it is. `files` maps a short description to a path."""

    folder: Path
    report: Report
    stages: dict[str, StageResult]
    caption_f1: dict[str, float]
    text_loss: dict[str, float]
    seconds: float
    files: dict[str, Path] = field(default_factory=dict)


def reproduce(
    run_dir: str | Path | None = None,
    preset: str = "tiny",
    seed: int = 0,
    fast_dev_run: bool = False,
    processes: int = 1,
    say: Callable[[str], None] = print,
) -> Reproduction:
    """Join the preset's bases by both stages, evaluate on held-out pictures, and draw what came of it.

    Leaves in `run_dir` (runs/PRESET unless given): a folder for each stage (curve, checkpoint, sample
    answers), `stage2/model` (a llava-hf folder with its card), `accuracy.md` and `.json`, `loss-stage1.png`,
    `loss-stage2.png`, `accuracy.png`, `answers.png`, `attention.png` and `summary.json`. The same seed gives
    the same numbers; an interrupted run goes on where it was, and a finished one is evaluated again without
    training. `fast_dev_run` takes a few steps of each stage and a few questions, to see that all of it works.
    Several `processes` share the held-out questions: see `evaluate`.
    """
    begun = time.perf_counter()
    row = PRESETS[preset]
    folder = Path(run_dir or f"runs/{preset}") / ("fast-dev-run" if fast_dev_run else "")
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {name: 96 if fast_dev_run else row.stages[name].samples for name in row.stages}
    say(f"Joining {row.vision_tower} and {row.language_model} by a fresh {row.projector} projector.")
    model = checkpoints.from_bases(
        row.vision_tower, row.language_model, projector_type=row.projector, seed=seed
    ).to(usable())
    stages, f1, text = {}, {}, {}
    limit = 12 if fast_dev_run else None
    probes = _probes()
    f1["before stage 1"] = caption_f1(model, 8 if fast_dev_run else 64)
    say("Stage 1, feature alignment: the projector alone learns, from captions.")
    stages["stage1"] = train_stage(
        model,
        row.stages["stage1"],
        store.captions("train", sizes["stage1"], seed),
        folder,
        validation=store.captions("val", 16 if fast_dev_run else VALIDATION),
        seed=seed,
    )
    f1["after stage 1"] = caption_f1(model, 8 if fast_dev_run else 64)
    say("Asking the language model alone, with the pictures told in words: what it brings along.")
    oracle = ask(model, "oracle", limit=limit, processes=processes)
    text["before stage 2"] = text_loss(model, 8 if fast_dev_run else 64)
    say("Stage 2, visual instruction tuning: projector and language model learn, from conversations.")
    stages["stage2"] = train_stage(
        model,
        row.stages["stage2"],
        store.instructions("train", sizes["stage2"], seed),
        folder,
        validation=store.instructions("val", 16 if fast_dev_run else VALIDATION),
        probes=probes,
        seed=seed,
    )
    text["after stage 2"] = text_loss(model, 8 if fast_dev_run else 64)
    say("Asking held-out questions about pictures never trained on.")
    report = evaluate(
        model, "test", baselines=BASELINES, limit=limit, given={"oracle": oracle}, processes=processes
    )
    result = Reproduction(folder, report, stages, f1, text, 0.0)
    result.files = {"model": stages["stage2"].folder / "model"}
    report.save(folder)
    result.files["accuracy"] = folder / "accuracy.md"
    result.files |= draw_figures(model, result)
    result.seconds = time.perf_counter() - begun
    summary = _summary(result, row, seed)
    result.files["summary"] = folder / "summary.json"
    result.files["summary"].write_text(json.dumps(summary, indent=2) + "\n")
    result.files["card"] = write_model_card(result.files["model"], row, summary, report.to_markdown())
    say(f"\n{report.to_markdown()}\n")
    for what, found in (("Caption F1 (0-1)", f1), ("Loss on held-out text (nats)", text)):
        say(f"{what} " + ", ".join(f"{when}: {value:.3f}" for when, value in found.items()))
    say(f"\n{result.seconds / 60:.1f} minutes. What is where:")
    for what, path in result.files.items():
        say(f"  {what:<12}{os.path.relpath(path)}")
    return result


def _probes() -> list[tuple]:
    """Two held-out pictures with a question each, answered whenever the loss is validated."""
    rows = list(records.evaluation_records("val", 2))
    return [(row["image"]["bytes"], row["question"]) for row in (rows[0], rows[-1])]


def caption_f1(model, pictures: int, batch_size: int = 32) -> float:
    """Mean F1 of the objects named in stage-1 captions of validation pictures against those there.

    An object counts if size, color, shape and place are all right. The prompt is the picture alone
    (template `plain`), as in stage 1, so this can be asked before any instruction tuning.
    """
    scores = []
    for start in range(0, pictures, batch_size):
        made = [records.scene("val", i) for i in range(start, min(pictures, start + batch_size))]
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": None}]
        batch = model.prepare([turns] * len(made), [[draw(s)] for s in made], template="plain")
        texts = model.tokenizer.batch_decode(
            model.generate(**batch, max_new_tokens=80), skip_special_tokens=True
        )
        scores += [objects_f1(text, scene) for text, scene in zip(texts, made, strict=True)]
    return sum(scores) / len(scores)


@torch.no_grad()
def text_loss(model, conversations: int, batch_size: int = 16) -> float:
    """Mean loss, in nats, of the replies in held-out conversations about pictures told in words.

    Stage 2 mixes such conversations in, as LLaVA does ShareGPT's, so that the language model keeps what
    it brought: the loss after it, against the one before, says whether it did.
    """
    told = tuple(row for row in STAGE_2 if row.kind == "text")
    data = InstructionDataset(
        store.instructions("val", conversations, table=told),
        model.tokenizer,
        template="v1",
        aspect="pad",
        image_size=model.config.vision_config.image_size,
        num_image_tokens=model.num_image_tokens,
    )
    collate, total, number = Collator(model.tokenizer.pad_token_id), 0.0, 0
    for start in range(0, conversations, batch_size):
        batch = collate([data[i] for i in range(start, min(conversations, start + batch_size))])
        labels = batch["labels"].to(model.device)
        learned = int((labels != IGNORE_INDEX).sum())
        loss = model(
            batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            labels=labels,
            all_logits=False,
        ).loss
        total, number = total + loss.item() * learned, number + learned
    return total / number


def objects_f1(caption: str, scene: Scene) -> float:
    """F1 of a dense caption's object phrases against the scene's, as multisets."""
    return multiset_f1(phrases(caption), map(phrase, scene.objects))


def pointing_head(model, rows: list[dict]) -> tuple[list[tuple[dict, AnswerMaps]], int, int]:
    """Answer questions that name one object; find the head whose row at that name points best.

    Returns the rows with their maps, and (layer, head). Choosing on these very pictures is fine for
    a figure; `evaluation` of attention chooses and scores on different halves.
    """
    # One question a picture: its last that names one object.
    asked = {row["captions"][0]: row for row in rows if len(row["references"]) == 1}
    mapped = [
        (row, answer_maps(model, row["image"]["bytes"], row["question"], max_new_tokens=8))
        for row in tqdm(asked.values(), desc="attention", unit=" answers")
    ]
    examples = []
    for row, maps in mapped:
        heat = maps.prompt.maps[maps.prompt.find(row["references"][0])[-1]]
        examples.append((heat, maps.geometry.cells(row["boxes"][0]), []))
    layer, head = measure(examples)["pointing"].best_head
    return mapped, layer, head


def last_turn(question: str) -> str:
    """What is asked at last, with the options it shows, without earlier turns and format prompts."""
    asked, *further = question.rsplit("USER: ", 1)[-1].split("\n")
    return " ".join([asked, *(line for line in further if re.match(r"[A-E]\. |Options: ", line))])


def draw_figures(model, result: Reproduction, seen: int = 300) -> dict[str, Path]:
    """Write the stages' curves, `accuracy.png`, `answers.png` and `attention.png`; returns their paths."""
    folder, report = result.folder, result.report
    figures = {}
    for name, stage in result.stages.items():
        figures[f"{name} loss"] = (f"loss-{name}.png", plots.loss_curves(stage.curve, smooth=20))
    rows = list(held_out())[: len(report.ids)]
    # Of the other domains and kinds of conversation, the mean alone: the whole table is in `accuracy.md`.
    means = {row["domain"] for row in rows}
    table = {
        kind: {column: report.accuracy[column][kind] for column in report.accuracy}
        for kind in report.counts
        if kind in TYPES or kind.split(",")[0] in means
    }
    figures["accuracies"] = ("accuracy.png", plots.accuracy_bars(table))

    page = sorted({len(rows) * i // 16 for i in range(16)})
    figures["answers"] = (
        "answers.png",
        plots.answered_pictures(
            [open_image(rows[i]["image"]["bytes"]) for i in page],
            [last_turn(rows[i]["question"]) for i in page],
            [report.predictions["sighted"][i] for i in page],
            [rows[i]["answer"] for i in page],
        ),
    )
    short = [row for row in rows if (row["domain"], row["kind"]) == ("scenes", "questions")]
    mapped, layer, head = pointing_head(model, short[:seen])
    examples = []
    for row, maps in mapped[:: max(1, len(mapped) // 6)][:6]:
        at = maps.prompt.find(row["references"][0])[-1]
        examples.append(
            plots.AttentionExample(
                image=open_image(row["image"]["bytes"]),
                question=row["question"].split("\n")[0],
                answer=maps.answer,
                expected=row["answer"],
                word=maps.prompt.tokens[at].strip(),
                heat=maps.prompt.maps[at, layer, head],
                boxes=row["boxes"],
                mass=float(maps.prompt.mass[at, layer, head]),
            )
        )
    figures["attention"] = ("attention.png", plots.attention_page(examples))
    for name, figure in figures.values():
        figure.savefig(folder / name, dpi=150)
    return {what: folder / name for what, (name, _) in figures.items()}


def _summary(result: Reproduction, preset: Preset, seed: int) -> dict:
    """What `summary.json` holds: enough to compare two runs, and to see what they cost."""
    return {
        "preset": preset.name,
        "seed": seed,
        "accuracy": result.report.to_dict()["accuracy"],
        "caption_f1": result.caption_f1,
        "text_loss": result.text_loss,
        "stages": {
            name: {
                "steps": stage.steps,
                "seconds": round(stage.seconds, 1),
                "last_train_loss": stage.curve["train"][1][-1],
                "val_loss": stage.curve["val"][1],
            }
            for name, stage in result.stages.items()
        },
        "seconds": round(result.seconds, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "threads": torch.get_num_threads(),
    }
