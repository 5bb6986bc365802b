"""The two stages of LLaVA: one LightningModule, whose stages are rows of a table in `config.py`.

    stage 1, feature alignment:          trains multi_modal_projector                    on captions
    stage 2, visual instruction tuning:  trains multi_modal_projector + language_model   on conversations

With LoRA, stage 2 trains adapters in place of the language model. The vision tower is frozen in both. The
loss is the mean cross-entropy over the tokens of the answers.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils import deterministic

from minillava import checkpoints, lora
from minillava.config import IGNORE_INDEX, StageConfig
from minillava.data import InstructionData, InstructionDataset, divide_anew
from minillava.decoder import compile_layers, release_layers
from minillava.model import MiniLlava
from minillava.monitoring import Curve, FiniteLoss, Progress, Skipped, undisturbed
from minillava.optimization import cosine_with_warmup, freeze, lift, lower, parameter_groups
from minillava.parallel import Sharded, choose, gathered, shard
from minillava.records import Records
from minillava.resuming import check_origin, origin
from minillava.saving import WholeFile, recover

LAST = "last.ckpt"


@dataclass(frozen=True)
class StageResult:
    """What a stage left behind. `curve` maps "train" and "val" to (steps, losses in nats); `seconds` of
    training, before an interruption too; `skipped` counts the records that broke as it ran."""

    folder: Path
    steps: int
    curve: dict[str, tuple[list[int], list[float]]]
    seconds: float
    resumed_from: int
    generations: list[tuple[str, str]]
    skipped: int


@contextmanager
def settings_kept() -> Iterator[None]:
    """Give torch back its settings for determinism, which Lightning would leave changed. Meanwhile new memory
    is not filled with NaN, as it would be to show reads of what was never written: 2 % of a step."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills, deterministic.fill_uninitialized_memory = deterministic.fill_uninitialized_memory, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)
        deterministic.fill_uninitialized_memory = fills


CACHE_BYTES = 1 << 30
"""Bytes of frozen features that a stage keeps at most, unless it is told otherwise."""


class FeatureCache:
    """Patch features of the frozen tower, computed once per picture and kept in memory.

    Exact, because preprocessing is deterministic and the tower does not change. `limit` is in bytes;
    once full, further pictures are computed every time. (558K pictures at 576 x 1024 in half precision would
    be 658 GB. Where no picture is seen twice, in one epoch without validation, `train_stage` keeps none.)
    """

    def __init__(self, limit: int = CACHE_BYTES):
        self.limit, self.used = limit, 0
        self._features: dict[str, Tensor] = {}

    def __call__(self, model: MiniLlava, keys: list[str], pixel_values: Tensor) -> Tensor:
        """Features [I, N, D_v] of `pixel_values` [I, 3, S, S], whose pictures `keys` name."""
        missing = [i for i, key in enumerate(keys) if key not in self._features]
        if not keys or len(missing) == len(keys) and self.used >= self.limit:
            return model.encode_images(pixel_values)
        found = {key: self._features[key] for key in keys if key in self._features}
        if missing:
            with torch.no_grad():
                fresh = model.encode_images(pixel_values[missing])
            for row, i in enumerate(missing):
                found[keys[i]] = fresh[row]
                if self.used < self.limit:
                    self._features[keys[i]] = fresh[row].clone()
                    self.used += fresh[row].nbytes
        return torch.stack([found[key] for key in keys])


class Stage(LightningModule):
    """One stage of training, as Lightning sees it.

    Checkpoints hold only the tensors that the stage trains, beside the optimizer, the schedule and the
    position in the data: what is frozen is in the base folders already.
    """

    def __init__(
        self,
        model: MiniLlava,
        stage: StageConfig,
        total_steps: int,
        cache: FeatureCache,
        seed: int = 42,
    ):
        super().__init__()
        self.model, self.stage, self.total_steps, self.cache = model, stage, total_steps, cache
        self.seed = seed
        self.trained = {f"model.{name}" for name in freeze(model, stage)}
        self.tokens = 0  # of this step and process so far, where tokens weigh
        self.origin: dict = {}  # what the run follows from, to be told from another when it goes on

    def configure_model(self) -> None:
        """Precision, recomputing, shards: what Lightning's processes have to be there for."""
        prepare = lift if self.stage.precision.endswith("mixed") else None
        if self.stage.activation_checkpointing:
            self.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        if self.stage.compiled:
            compile_layers(self.model.language_model)
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"], self.stage.precision, prepare)
        elif prepare:
            prepare(self.model)

    def release(self) -> None:
        """Leave the model as any other: neither recomputing nor compiled. (Not Lightning's `teardown`, which
        is left out where a training ends by an error.)"""
        if self.stage.activation_checkpointing:
            self.model.language_model.gradient_checkpointing_disable()
        if self.stage.compiled:
            release_layers(self.model.language_model)

    def loss(self, batch: dict) -> Tensor:
        features = self.cache(self.model, batch["image_keys"], batch["pixel_values"])
        return self.model(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=batch["labels"],
            image_features=features,
            all_logits=False,
        ).loss

    def on_train_batch_start(self, batch: dict, batch_index: int) -> None:
        # LoRA's dropout: drawn from the place in the run, so that a resumed run draws the same.
        place = 1_000_003 * self.global_step + 1_009 * batch_index + self.global_rank
        torch.manual_seed(self.seed + place)

    def training_step(self, batch: dict, _: int) -> dict[str, Tensor]:
        """`loss` as it goes into the gradient, `mean` over the pass's tokens, and the pass's `weight`."""
        mean = self.loss(batch)
        weight = torch.ones_like(mean)
        if self.stage.weighing == "token":
            weight = (batch["labels"][:, 1:] != IGNORE_INDEX).sum()
            self.tokens += weight
        return {"loss": mean * weight, "mean": mean.detach(), "weight": weight}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make a sum over tokens, of which Lightning took the mean over passes and devices, their mean."""
        if self.stage.weighing == "token":
            tokens = self.trainer.strategy.reduce(self.tokens, reduce_op="sum").item()
            passes = self.trainer.world_size * self.trainer.accumulate_grad_batches
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(passes / tokens)
            self.tokens = 0

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None, gradient_clip_algorithm=None
    ) -> None:
        """By torch itself: with a fused optimizer in mixed precision, Lightning refuses. That is for the
        sake of float16, whose gradients such an optimizer would still have to scale; bfloat16's are not."""
        if gradient_clip_val:
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, gradient_clip_val)

    def on_validation_epoch_start(self) -> None:
        self.validated = torch.zeros(2, device=self.device)  # the sum over tokens, and how many

    def validation_step(self, batch: dict, index: int) -> None:
        data, labels = self.trainer.datamodule, batch["labels"]
        # Shares are filled up from the start, to be equally many: there nothing counts. Where that is a whole
        # batch it is read all the same, for in shards the others wait for it.
        first, others = index * data.batch_size, self.trainer.world_size
        place = (first + torch.arange(len(labels), device=labels.device)) * others + self.global_rank
        labels = labels.masked_fill((place >= len(data.validation))[:, None], IGNORE_INDEX)
        tokens = (labels[:, 1:] != IGNORE_INDEX).sum()
        total = self.loss(batch | {"labels": labels if tokens else batch["labels"]}) * tokens
        self.validated += torch.stack([total, tokens])

    def on_validation_epoch_end(self) -> None:
        total, tokens = self.trainer.strategy.reduce(self.validated, reduce_op="sum")
        self.log("val", total / tokens)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, self.stage),
            betas=self.stage.betas,
            eps=1e-8,
            fused=True,  # one pass over each tensor, and no temporary copies of them
        )
        warmup = math.ceil(self.stage.warmup_ratio * self.total_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine_with_warmup(step, warmup, self.total_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k in self.trained}
        checkpoint["origin"] = self.origin

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        check_origin(checkpoint.get("origin", {}), self.origin)
        divide_anew(checkpoint["loops"]["fit_loop"], self.trainer.datamodule.layout)
        if "state_dict" not in checkpoint:  # the shards have been read already
            return
        saved, current = checkpoint["state_dict"], self.state_dict()
        for key in sorted(self.trained | saved.keys()):
            ours, theirs = current.get(key), saved.get(key)
            if key not in self.trained or theirs is None or ours.shape != theirs.shape:
                raise ValueError(
                    f"The checkpoint of the interrupted {self.stage.name} does not fit this model: "
                    f"{key} is {'missing' if theirs is None else list(theirs.shape)} there and "
                    f"{'frozen or missing' if key not in self.trained else list(ours.shape)} here. "
                    "Delete its folder, or give another run folder, to start anew."
                )
        checkpoint["state_dict"] = current | saved


@settings_kept()
def train_stage(
    model: MiniLlava,
    stage: StageConfig,
    data: Records | str | Path,
    run_dir: str | Path,
    *,
    validation: Records | str | Path | None = None,
    image_root: str | Path | None = None,
    probes: list[tuple] = (),
    validations: int = 4,
    save_every: int = 50,
    device_batch: int | None = None,
    num_workers: int = 0,
    skip_broken: bool = False,
    max_steps: int | None = None,
    seed: int = 42,
    cache_bytes: int = CACHE_BYTES,
    trainer: dict | None = None,
    **overrides,
) -> StageResult:
    """Train one stage in place, and leave its results in `run_dir/<stage name>/`.

    The folder gets `curve.csv`, `generations.txt` (answers to `probes`, a list of (picture, question),
    each time validation runs), and at the end `projector.safetensors` (stage 1) or, where the language
    model trained too, a llava-hf folder `model/`; a stage with LoRA also leaves its adapters and the
    projector in `adapter/`, and has merged them into `model`. If the folder holds the checkpoint of an
    interrupted run, training goes on from there, to the same bits (with other devices, to rounding,
    LoRA's dropout aside). Of several processes the first writes.

    `device_batch` is the number of samples in one forward pass of one device (default: its share of
    `stage.batch_size`); gradients accumulate up to the stage's batch. `num_workers` processes prepare the
    batches of each device. With `skip_broken` a record that breaks midway is replaced by the next, counted
    and listed in `skipped.txt`. `overrides` replace fields of the stage; `trainer` holds further arguments of
    Lightning's Trainer (devices, num_nodes, accelerator, ...), its `strategy` one of `config.STRATEGIES`
    or Lightning's own. After fsdp2 `model` stays in shards: load what the stage left.

    Raises ValueError for records that cannot be trained on (run `data.audit`), a batch size that does not
    divide, a count below 1, or a checkpoint that is damaged or of another run (other records, settings or
    frozen weights); FloatingPointError if the loss or a gradient is not finite; OSError if a checkpoint
    cannot be saved, or if a worker dies; ImportError for LoRA without `peft`.
    """
    stage = replace(stage, **overrides)
    counts = {"max_steps": max_steps, "save_every": save_every, "device_batch": device_batch}
    if low := {name: count for name, count in counts.items() if count is not None and count < 1}:
        raise ValueError(f"{stage.name}: expected at least 1, not {low}.")
    if stage.lora and not lora.adapted(model):
        lora.adapt(model, stage.lora, seed)
    elif lora.adapted(model) and not stage.lora:
        raise ValueError(f"{stage.name} trains no adapters, but the model has some: lora.merge it first.")
    folder = Path(run_dir) / stage.name
    folder.mkdir(parents=True, exist_ok=True)

    def dataset(records: Records | str | Path) -> InstructionDataset:
        return InstructionDataset(
            records,
            model.tokenizer,
            template=stage.template,
            aspect=stage.aspect,
            image_size=model.config.vision_config.image_size,
            num_image_tokens=model.num_image_tokens,
            image_root=image_root,
            max_length=stage.max_length,
            skip_broken=skip_broken,
        )

    train, home = dataset(data), model.device
    model.image_processor.do_pad = stage.aspect == "pad"  # for answers, too
    total = min(stage.steps(len(train)), max_steps or math.inf)
    curve, skipped = Curve(folder, probes), Skipped(folder)
    settings = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto"} | (trainer or {})
    last = recover(folder / LAST, first=rank_zero_only.rank == 0)
    spread = settings["devices"], settings["num_nodes"]
    settings["strategy"] = choose(stage, settings["strategy"], *spread, last)
    engine = Trainer(
        max_steps=total,
        max_epochs=-1,
        gradient_clip_val=stage.max_grad_norm,
        precision=stage.precision,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if validation is not None else 0,
        callbacks=[
            FiniteLoss(),
            curve,
            skipped,
            Progress(stage.name, stage.batch_size),
            ModelCheckpoint(
                folder, filename="last", every_n_train_steps=min(save_every, total), save_top_k=1,
                enable_version_counter=False,
            ),
        ],
        plugins=[WholeFile()],
        logger=False,
        enable_model_summary=False,
        deterministic=True,
        default_root_dir=folder,
        **settings,
    )  # fmt: skip
    # After the fact: only Lightning knows what "auto" devices come to.
    device_batch, passes = split_batch(stage, device_batch, engine.num_devices * engine.num_nodes)
    engine.accumulate_grad_batches = passes
    engine.val_check_interval = max(1, total // max(1, validations)) * passes  # it counts passes
    modules = InstructionData(
        train,
        batch_size=device_batch,
        validation=None if validation is None else dataset(validation),
        num_workers=num_workers,
        seed=seed,
        grouped=stage.group_by_modality_length,
    )
    seen_again = stage.epochs > 1 or validation is not None
    module = Stage(model.train(), stage, total, FeatureCache(cache_bytes if seen_again else 0), seed)
    module.origin = origin(module, module.trained, stage, total, train.records)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    with isolate_rng(include_cuda=torch.cuda.is_available()), undisturbed():
        try:
            engine.fit(module, modules, ckpt_path=last, weights_only=True)
        finally:
            module.release()
            if not isinstance(engine.strategy, Sharded):
                lower(model, dtypes)
                model.eval().to(home)
    if not curve.rows:  # the checkpoint was of the last step: nothing was left to train
        curve.resume(engine)
    weights = None
    if isinstance(engine.strategy, Sharded):
        weights = {name: tensor.to(dtypes[name]) for name, tensor in gathered(model.eval()).items()}
    if engine.is_global_zero:
        leave_weights(model, stage, folder, weights)
    engine.strategy.barrier()
    if stage.lora:
        lora.merge(model)
    if "language_model" in stage.trains:
        model.config.name_or_path = str(folder / "model")  # no longer the bases it came from
    return StageResult(
        folder=folder,
        steps=engine.global_step,
        curve=curve.losses(),
        seconds=curve.seconds,
        resumed_from=curve.resumed_from,
        generations=curve.generations,
        skipped=skipped.count(),
    )


def leave_weights(
    model: MiniLlava, stage: StageConfig, folder: Path, weights: dict[str, Tensor] | None = None
) -> None:
    """Write what the stage trained: a whole model, with LoRA its adapters too, or the projector alone.

    `weights` are the whole model's, where `model` is in shards.
    """
    if stage.lora:
        checkpoints.save_adapters(model, folder / "adapter")
    if "language_model" in stage.trains:
        checkpoints.save(model, folder / "model", weights)
    else:
        checkpoints.save_projector(model, folder / "projector.safetensors")


def split_batch(stage: StageConfig, device_batch: int | None, devices: int) -> tuple[int, int]:
    """(samples in a pass of one device, passes until the optimizer steps) that make the stage's batch.

    Raises ValueError if none do: the global batch is a part of the recipe, whatever it runs on.
    """
    if stage.batch_size % devices:
        fitting = [str(n) for n in range(1, stage.batch_size + 1) if stage.batch_size % n == 0]
        raise ValueError(
            f"{stage.name} has a batch of {stage.batch_size}, which {devices} devices cannot share evenly: "
            f"take one of {', '.join(fitting)}."
        )
    device_batch = device_batch or max(1, stage.batch_size // devices)
    passes, rest = divmod(stage.batch_size, device_batch * devices)
    if rest or not passes:
        raise ValueError(
            f"{stage.name} has a batch of {stage.batch_size}, which {devices} devices with {device_batch} "
            "samples each do not make in any number of passes: choose a device_batch that divides it."
        )
    return device_batch, passes
