"""The peer: `LlavaForConditionalGeneration` under transformers' `Trainer`, as its users put them together.

The model opens our export; the data are a `datasets.Dataset` with its Image feature; the collator calls the
processor on the batch, as transformers' and TRL's examples do, and learns the answers only.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor, Trainer, TrainingArguments

from minillava.config import IGNORE_INDEX, StageConfig

ROLES = {"human": "user", "gpt": "assistant"}
ANSWER = re.compile(r"ASSISTANT:(\s.*?</s>)", re.DOTALL)
CAPTION = re.compile(r"(?:<image>)+(.*)", re.DOTALL)


def trains_as(model: LlavaForConditionalGeneration, stage: StageConfig) -> LlavaForConditionalGeneration:
    """Freeze what the stage does not train."""
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    if "language_model" in stage.trains:
        model.model.language_model.requires_grad_(True)
        model.lm_head.requires_grad_(True)
    return model.train()


class PeerCollator:
    """Rows of LLaVA's format -> the batch that `LlavaForConditionalGeneration` takes."""

    def __init__(self, processor: LlavaProcessor, stage: StageConfig) -> None:
        self.processor, self.template = processor, stage.template
        processor.tokenizer.padding_side = "right"

    def text(self, row: dict[str, Any]) -> str:
        """A space after `<image>`, as our chat template has it: the original's tokens need one."""
        turns = row["conversations"]
        if self.template == "plain":
            return f"<image> {turns[1]['value']}\n"
        messages = [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in turns]
        return self.processor.apply_chat_template(messages)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        texts = [self.text(row) for row in rows]
        pictures = [row["image"] for row in rows if row["image"] is not None]
        batch = self.processor(
            text=texts,
            images=pictures or None,
            padding=True,
            return_tensors="pt",
            return_offsets_mapping=True,
        )
        offsets = batch.pop("offset_mapping")  # [B, T, 2], characters
        learned = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        patches = int((batch["input_ids"] == self.processor.image_token_id).sum()) // max(1, len(pictures))
        for row, text in enumerate(texts):
            text = text.replace("<image>", "<image>" * patches)
            for span in (CAPTION if self.template == "plain" else ANSWER).finditer(text):
                start, end = span.span(1)
                learned[row] |= (offsets[row, :, 1] > start) & (offsets[row, :, 0] < end)
        learned &= batch["attention_mask"].bool()
        batch["labels"] = batch["input_ids"].where(learned, torch.tensor(IGNORE_INDEX))
        return dict(batch)


def opened(records: datasets.Dataset) -> datasets.Dataset:
    """The records with their pictures as PIL images."""
    return records.cast_column("image", datasets.Image())


def arguments(stage: StageConfig, folder: str | Path, steps: int, batch: int, **changes) -> TrainingArguments:
    """The stage's recipe in the Trainer's words; the rest, its fused AdamW too, as it comes."""
    return TrainingArguments(
        **(
            dict(
                output_dir=str(folder),
                per_device_train_batch_size=batch,
                max_steps=steps,
                learning_rate=stage.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=stage.warmup_steps(steps * stage.batch_size),
                weight_decay=stage.weight_decay,
                adam_beta1=stage.betas[0],
                adam_beta2=stage.betas[1],
                max_grad_norm=stage.max_grad_norm,
                train_sampling_strategy="sequential",
                remove_unused_columns=False,
                save_strategy="no",
                report_to="none",
                use_cpu=not torch.cuda.is_available(),
                bf16=stage.precision.startswith("bf16"),
            )
            | changes
        )
    )


def fit(
    model: nn.Module,
    stage: StageConfig,
    data,
    collator,
    folder: str | Path,
    steps: int,
    batch: int,
    **changes,
) -> None:
    """Train under the Trainer."""
    args = arguments(stage, folder, steps, batch, **changes)
    Trainer(model=model, args=args, train_dataset=data, data_collator=collator).train()


@contextmanager
def watched(model: nn.Module, clock) -> Iterator[tuple[list[float], list[Tensor]]]:
    """(times at which forward passes began, their losses) of either side, while it trains."""
    stamps: list[float] = []
    losses: list[Tensor] = []
    hooks = [
        model.register_forward_pre_hook(lambda *_: stamps.append(clock())),
        model.register_forward_hook(lambda _, __, output: losses.append(output.loss.detach())),
    ]
    try:
        yield stamps, losses
    finally:
        for hook in hooks:
            hook.remove()
