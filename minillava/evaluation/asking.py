"""Asking a model many questions at once: batches of about equally long answers, in one process or several."""

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm

SHORTEST = 16
"""New tokens that every reply may have: words that the tokenizer has not met take several."""

Prompt = tuple[bytes | None, str]
"""The file of a picture, or none, and a question."""

Answering = Callable[[Iterable[tuple[list[Prompt], int]]], Iterator[list[str]]]
"""From batches of prompts, each with the most new tokens, to their replies."""


def replies(answer: Answering, column: str, rows: list[dict], batch_size: int) -> list[str]:
    """The model's answers to every row, with the picture that `column` stands for."""
    others = _others(rows) if column == "shuffled" else range(len(rows))
    prompts: list[Prompt] = []
    for row, other in zip(rows, others, strict=True):
        told = f"{row['captions'][0]}\n" if column == "oracle" else ""
        image = None if column in ("blind", "oracle") else rows[other]["image"]["bytes"]
        prompts.append((image, told + row["question"]))
    answers = [""] * len(rows)
    bar = tqdm(total=len(rows), desc=f"asking ({column})", unit=" questions")
    batches = list(_batches(rows, prompts, batch_size))
    shown = [([prompts[numbers[0]] for numbers in batch], tokens) for batch, tokens in batches]
    for (batch, _), said in zip(batches, answer(shown), strict=True):
        for numbers, reply in zip(batch, said, strict=True):
            for number in numbers:
                answers[number] = reply
            bar.update(len(numbers))
    bar.close()
    return answers


@contextmanager
def answering(model, processes: int = 1) -> Iterator[Answering]:
    """How the model's replies are had: in this process, or in several that load a copy of it."""
    if processes == 1:
        yield partial(map, partial(_replies, model))
        return
    import torch

    from minillava import checkpoints

    threads = max(1, torch.get_num_threads() // processes)
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(processes, spawn) as pool:
        checkpoints.save(model, folder)
        yield partial(pool.map, partial(_copys_replies, folder, threads, model.device))


def _replies(model, batch: tuple[list[Prompt], int]) -> list[str]:
    prompts, tokens = batch
    images, questions = zip(*prompts, strict=True)
    return model.answer_batch(list(images), list(questions), max_new_tokens=tokens)


def _copys_replies(folder: str, threads: int, device, batch: tuple[list[Prompt], int]) -> list[str]:
    return _replies(_copy(folder, threads, device), batch)


@lru_cache(maxsize=1)
def _copy(folder: str, threads: int, device):
    """The model of a folder, loaded once, onto a device, in a process that has so many threads."""
    import torch

    from minillava import checkpoints

    torch.set_num_threads(threads)
    return checkpoints.load(folder).to(device)


def _batches(rows: list[dict], prompts: Sequence, size: int) -> Iterator[tuple[list[list[int]], int]]:
    """Numbers of rows of about equally long answers, and how many new tokens these may have.

    Within a factor of two: a batch goes on until its last reply is complete. A type's replies may be a third
    longer than the longest right one, and of SHORTEST tokens at least. Rows of the same prompt, of which
    there are many without a picture, stand together, to be asked once.
    """
    longest: Counter = Counter()
    for row in rows:
        longest[row["type"]] = max(longest[row["type"]], _pieces(row["answer"]))
    alike: dict[Any, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        alike[prompt].append(number)
    groups: dict[int, list[tuple[list[int], int]]] = defaultdict(list)
    for numbers in alike.values():
        pieces = max(longest[rows[number]["type"]] for number in numbers)
        groups[(pieces - 1).bit_length()].append((numbers, pieces))
    for _, group in sorted(groups.items()):
        most = max(pieces for _, pieces in group)
        for start in range(0, len(group), size):
            yield [numbers for numbers, _ in group[start : start + size]], max(SHORTEST, most * 4 // 3)


def _pieces(text: str) -> int:
    """No less than the number of a text's tokens: words, and every digit, mark and space before one."""
    return len(re.findall(r"[^\W\d_]+|\S|\n| (?=[\W\d])", text))


def _others(rows: list[dict]) -> list[int]:
    """For each row another one of its domain: half of these away, as rows of one picture stand together."""
    others = list(range(len(rows)))
    for name in {row["domain"] for row in rows}:
        numbers = [number for number, row in enumerate(rows) if row["domain"] == name]
        for place, number in enumerate(numbers):
            others[number] = numbers[(place + len(numbers) // 2) % len(numbers)]
    return others
