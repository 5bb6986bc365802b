"""A stage on several devices and nodes, by Lightning's own strategies.

    ddp     each device holds the whole model and takes its share of a batch. For stages that train little:
            stage 1's projector, LoRA's adapters.
    fsdp2   weights, gradients and optimizer states are cut into as many shards as there are devices; a
            decoder layer is put together when its turn comes. For stages that train the language model.

The original runs DeepSpeed's ZeRO-2 and ZeRO-3 for these (scripts/v1_5).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint import state_dict as distributed_state
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from minillava.config import StageConfig
from minillava.model import MiniLlava
from minillava.saving import replace_folder, unfinished

POSITION = "meta.pt"
"""The file of a sharded checkpoint that holds what is no tensor, by Lightning's name for it."""


def choose(
    stage: StageConfig, strategy: str | Strategy, devices: Any, nodes: int, last: Path | None = None
) -> str | Strategy:
    """Lightning's strategy for one of STRATEGIES; "auto" is the one that made the checkpoint `last`, if there
    is one, and else on several devices the one that suits the stage.

    Raises ValueError for fsdp2 where a stage leaves the language model's own weights alone: sharding
    would have them gathered at every step, for nothing.
    """
    several = not isinstance(devices, int) or devices * nodes > 1
    whole = "language_model" in stage.trains and not stage.lora
    if strategy == "auto" and last is not None:
        strategy = "fsdp2" if last.is_dir() else "ddp" if several else strategy
    elif strategy == "auto" and several:
        strategy = "fsdp2" if whole and isinstance(devices, int) else "ddp"
    if strategy != "fsdp2":
        return strategy
    if not whole:
        raise ValueError(f"{stage.name} trains little and keeps the model whole on each device: use ddp.")
    if not isinstance(devices, int):
        raise ValueError(f"fsdp2 needs the number of devices of a node, not {devices!r}.")
    return Sharded(data_parallel_size=devices * nodes, tensor_parallel_size=1)


def shard(
    model: MiniLlava, mesh: DeviceMesh, precision: str, prepare: Callable[[nn.Module], Any] | None = None
) -> None:
    """Cut the projector and the language model into shards over `mesh`, in place (torch's fully_shard).

    One decoder layer is one unit; embeddings, norm, head and projector are another, the root's. The
    frozen tower stays whole on every device. `prepare` is applied to each unit before it is cut, so that
    of a model lifted to float32 no process ever holds more than one layer. With "bf16-mixed", weights
    travel and compute in bfloat16, gradients are summed in float32.
    """
    policy = MixedPrecisionPolicy()
    if precision == "bf16-mixed":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.language_model.model.layers:
        if prepare:
            prepare(layer)
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    if prepare:
        prepare(model)
    fully_shard(model, mesh=mesh, mp_policy=policy, ignored_params=set(model.vision_tower.parameters()))
    register_fsdp_forward_method(model, "generate")  # which uses the root's weights as `forward` does


def gathered(model: MiniLlava) -> dict[str, Tensor]:
    """The weights of a sharded model, whole, in the first process's memory; empty in the others.

    All processes have to call it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return distributed_state.get_model_state_dict(model, options=options)


class Sharded(ModelParallelStrategy):
    """FSDP2, whose checkpoints are folders: whole or not at all, and only of what the stage trains.

    Every process writes its shards; any number of processes reads them.
    """

    TRAINED = StateDictOptions(ignore_frozen_params=True)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        options = StateDictOptions(ignore_frozen_params=True, cpu_offload=True)
        return distributed_state.get_model_state_dict(self.model, options=options)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options=None) -> None:
        path = Path(self.broadcast(str(filepath)))
        with unfinished(path) as new:
            self.barrier()  # all have cleared the way before the first one writes
            super().save_checkpoint(checkpoint, new)
            self.barrier()
            if self.is_global_zero:
                replace_folder(new, path)
            self.barrier()

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Raises ValueError for a checkpoint of another model or of another strategy."""
        path = Path(self.broadcast(str(checkpoint_path)))
        if not path.is_dir():
            raise ValueError(
                f"{path} was not made by fsdp2, which reads folders of shards: go on with the strategy "
                "and devices that it was made with, or start anew in another run folder."
            )
        options, (optimizer,) = self.TRAINED, self.optimizers
        state = {"state_dict": distributed_state.get_model_state_dict(self.model, options=options)}
        moments = distributed_state.get_optimizer_state_dict(self.model, optimizer, options=options)
        try:  # into the model's own shards, so that its weights need no second reading
            distributed.load(state | {"optimizer_0": moments}, checkpoint_id=path)
        except CheckpointException as error:
            error, _ = next(iter(error.failures.values()))
            raise ValueError(f"The checkpoint {path} does not fit this model: {error}") from error
        distributed_state.set_optimizer_state_dict(self.model, optimizer, moments, options=options)
        return torch.load(path / POSITION, weights_only=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Nothing is left to do: `load_checkpoint` has read the weights."""
