"""What one device has to hold while a stage trains, part by part. GB are 10^9 bytes.

The fullest moment is the beginning of the backward pass, when everything that it needs has been kept. The
optimizer's step comes later and makes nothing new: a fused AdamW changes weights and averages in place.
"""

from dataclasses import dataclass

from minillava.config import StageConfig
from minillava.flops import Shapes
from minillava.shapes import StageSize

GB = 1e9


@dataclass(frozen=True)
class Gpu:
    """A device: its memory in bytes and its peaks in FLOP/s, dense, for bfloat16 (sums in float32) and for
    float32 outside of the tensor cores, where PyTorch leaves it by default.

    `runtime` is what it holds beside tensors: CUDA's context, workspaces, NCCL's buffers, and fragments
    that fit nothing (assumed).
    """

    name: str
    memory: float
    bfloat16: float
    float32: float
    source: str
    runtime: float = 2 * GB

    def peak(self, precision: str) -> float:
        """FLOP/s in Lightning's `precision`."""
        return self.bfloat16 if precision.startswith("bf16") else self.float32


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40gb", 40 * GB, 312e12, 19.5e12, "NVIDIA A100 datasheet"),
        Gpu("a100-80gb", 80 * GB, 312e12, 19.5e12, "NVIDIA A100 datasheet"),
        Gpu("h100-80gb", 80 * GB, 989e12, 67e12, "NVIDIA H100 datasheet, SXM, half of the sparse peak"),
        Gpu("h200", 141 * GB, 989e12, 67e12, "NVIDIA H200 datasheet, SXM, half of the sparse peak"),
        Gpu("l40s", 48 * GB, 362e12, 91.6e12, "NVIDIA L40S datasheet"),
        Gpu("a6000", 48 * GB, 154.8e12, 38.7e12, "NVIDIA RTX A6000 datasheet, half of the sparse peak"),
        Gpu("rtx-4090", 24 * GB, 165.2e12, 82.6e12, "NVIDIA Ada architecture whitepaper, appendix A"),
        Gpu("rtx-3090", 24 * GB, 71e12, 35.6e12, "NVIDIA GA102 architecture whitepaper, appendix A"),
    )
}
"""By name. Real cards have up to 7 % more bytes than the GB on their label."""


@dataclass(frozen=True)
class Setup:
    """What a stage runs on, and how. `strategy` is one of `parallel`: "ddp" keeps everything on each device,
    "fsdp2" deals weights, gradients and optimizer out to all of them. `micro_batch` is the number of
    samples in one pass of one device."""

    gpu: Gpu
    devices: int = 1
    nodes: int = 1
    strategy: str = "ddp"
    checkpointing: bool = False
    micro_batch: int = 1
    compiled: bool = False

    @property
    def world(self) -> int:
        """Devices of all nodes."""
        return self.devices * self.nodes

    def __str__(self) -> str:
        """As `minillava plan` takes it."""
        nodes = f" --nodes {self.nodes}" * (self.nodes > 1)
        return (
            f"--gpu {self.gpu.name} --devices {self.devices}{nodes} --strategy {self.strategy} "
            f"--device-batch {self.micro_batch}{' --activation-checkpointing' * self.checkpointing}"
            f"{' --compile' * self.compiled}"
        )


@dataclass(frozen=True)
class Memory:
    """Bytes of one device, by part, as the backward pass begins.

    `weights` with autocast's copies in bfloat16, which the backward pass reads. `gathered` is what fsdp2 has
    in one piece at a time: two layers, the embedding, head and projector, and gradients on their way out.
    """

    weights: float
    gathered: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    cache: float
    runtime: float

    @property
    def peak(self) -> float:
        """All parts together: what has to fit."""
        return sum(vars(self).values())


def layer_activations(
    shapes: Shapes,
    compute: int,
    residual: int | None = None,
    trains: bool = False,
    adapted: bool = False,
    compiled: bool = False,
) -> float:
    """Bytes that one decoder layer keeps for the backward pass, per position, with a fused attention.

    `compute` is the size of an element in matrix products, `residual` of one between layers. Both norms
    keep their input in float32; attention q, k, v, its output and a float32 per head; the MLP its gate
    before and after SiLU and what that is multiplied with. Where the layer `trains`, also the norms'
    outputs before their weight, and the inputs of all matrices, which autocast copies for each of five
    matrices if `residual` is larger than `compute`. An adapter (LoRA) keeps its input and dropout's mask.
    `compiled`, norms and SiLU are computed again from what went into them, and a copy is made once.
    """
    d, i = shapes.width, shapes.mlp
    residual = compute if residual is None else residual
    kept = compute * (2 * d + 2 * shapes.key_value_width + 2 * i) + 4 * shapes.heads
    kept += 2 * residual * d if compiled else 2 * 4 * d + compute * i
    if trains:
        kept += compute * (2 * d + i)
    if trains and not compiled:
        kept += 2 * residual * d + compute * (3 * d if residual > compute else 0)
    if adapted:
        kept += (compute + 1) * (6 * d + i)
    return kept


def device_memory(
    shapes: Shapes, size: StageSize, stage: StageConfig, setup: Setup, longest: int, cache: float = 0
) -> Memory:
    """Memory of one device for a micro-batch of samples of `longest` positions.

    In mixed precision a weight that trains is float32, and so are its gradient and AdamW's two averages:
    16 bytes in all (as arXiv 1910.02054 counts, section 3.1). A frozen one is bfloat16, 2 bytes. `cache` is
    the size of the frozen features that are kept.
    """
    half = stage.precision.startswith("bf16")
    compute = 2 if half else 4
    sharded = setup.strategy == "fsdp2"
    share = setup.world if sharded else 1
    trained, frozen = size.total_trainable, size.total - size.total_trainable
    whole = size.trainable["language_model"] > 0
    tower, projector = size.parameters["vision_tower"], size.parameters["multi_modal_projector"]
    vocabulary = shapes.vocabulary * shapes.width

    weights = (4 * trained + compute * (frozen - tower)) / share + compute * tower
    autocast = half and not sharded  # keeps a bfloat16 copy of each matrix until the backward pass
    copies = 2 * (trained - vocabulary * whole) * autocast
    gathered = 0.0
    if sharded:
        root = 2 * vocabulary + projector
        gathered += compute * (2 * shapes.layer_weights + root)
        gathered += compute * root + (compute + 4) * shapes.layer_weights

    residual = 4 if autocast and whole else compute
    tokens = setup.micro_batch * longest
    adapted = size.trainable["adapters"] > 0
    layer = tokens * layer_activations(shapes, compute, residual, whole, adapted, setup.compiled)
    layers = shapes.layers * layer
    if setup.checkpointing:  # each layer's input, and one layer at a time in full
        layers = shapes.layers * tokens * residual * shapes.width + layer
    features = setup.micro_batch * shapes.patches * compute * (shapes.vision_width + 2 * shapes.width)
    ends = tokens * (compute + residual + 4) * shapes.width  # embeddings, final norm
    flowing = tokens * (3 * compute * shapes.mlp + 2 * residual * shapes.width)  # gradients in one layer
    supervised = tokens - setup.micro_batch * shapes.patches * (stage.template == "plain")
    return Memory(
        weights=weights + copies,
        gathered=gathered,
        gradients=4 * trained / share * (2 if setup.world > 1 and not sharded else 1),  # DDP's buckets
        optimizer=8 * trained / share,
        activations=layers + features + ends + flowing,
        logits=12 * supervised * shapes.vocabulary,  # log-softmax, its gradient and the logits', float32
        cache=cache,
        runtime=setup.gpu.runtime,
    )
