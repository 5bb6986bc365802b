"""Weight files: find them, read them, and say plainly what is wrong with them.

Weights are safetensors. Where a file is a pickle (the original's mm_projector.bin), torch reads it
with `weights_only=True`, which runs nothing that the file says.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from minillava.config import PRESETS

WEIGHTS = "model.safetensors"
INDEXED = {WEIGHTS: f"{WEIGHTS}.index.json", "pytorch_model.bin": "pytorch_model.bin.index.json"}
"""A model's weights in one file, ours or an older one -> the index of its shards, if there are several."""

SETTINGS = ("*.json", "*.jinja", "tokenizer.model")
"""The files of a model on the hub that are no weights."""

ADAPTER_CONFIG = "adapter_config.json"
"""What peft calls its settings; where it is, the weights beside it are adapters."""

RENAMES = (
    ("base_model.model.", ""),  # what peft wraps a model in
    ("model.vision_tower.", "vision_tower."),  # the names transformers 5 uses in memory
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("vision_tower.vision_tower.", "vision_tower."),  # the original's, down to "model.norm."
    ("vision_tower.vision_model.", "vision_tower."),  # llava-hf's folders on the hub, too
    ("model.mm_projector.", "mm_projector."),
    ("mm_projector.0.", "multi_modal_projector.linear_1."),
    ("mm_projector.2.", "multi_modal_projector.linear_2."),
    ("mm_projector.", "multi_modal_projector.linear_1."),  # LLaVA v1's only layer
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
)
"""(prefix in a file, ours), applied in this order."""

COMPUTED = (".embeddings.position_ids", ".rotary_emb.inv_freq")
"""Ends of keys that older files carry although nothing in them is learned."""


def find(name_or_path: str | Path, tensors: bool = True) -> Path:
    """The local folder of a preset's finished model, a path, or a hub id: fetched if need be, and if no
    `tensors` are wanted then without its gigabytes."""
    name = PRESETS[name_or_path].finished if name_or_path in PRESETS else str(name_or_path)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ValueError(f"{folder} is a file: give the folder that holds the checkpoint.")
    # "runs/mine" could be a hub id as well, but not if there is a folder "runs" here.
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and not folder.parent.is_dir():
        return download(name) if tensors else download(name, SETTINGS)
    raise FileNotFoundError(
        f"There is no folder {folder}. Known names: {', '.join(PRESETS)}; a hub id looks like "
        "'llava-hf/llava-1.5-7b-hf'."
    )


def download(hub_id: str, patterns: tuple[str, ...] = (*SETTINGS, "*.safetensors", "*.bin")) -> Path:
    """Fetch a model's files from the Hugging Face hub, or find them among those fetched before."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except OSError as error:
        raise FileNotFoundError(
            f"There is no folder {hub_id} here, and as a hub id it could not be fetched "
            f"({type(error).__name__}). Check the spelling; the first time needs a network."
        ) from error


def read_json(folder: Path, name: str) -> dict:
    """A JSON file of a checkpoint folder."""
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder} has no {name}: is it a checkpoint, and copied completely?")
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / name} is damaged ({error}): copy it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{folder / name} is damaged (it holds {found!r:.40}): copy it again.")
    return found


@contextmanager
def intact(source: str | Path) -> Iterator[None]:
    """Where a library reads `source`: ValueError, with its name, for whatever a damaged one brings about.

    Each library has errors of its own, tokenizers a bare Exception. What says by itself what is missing
    stays as it is.
    """
    try:
        yield
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"{source} is damaged or does not fit: copy it again. ({first_line(error)})"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, in one line; its name where it says nothing, as of an empty file."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, from one file or from the shards its index lists."""
    for name, index in INDEXED.items():
        if (folder / name).is_file():
            return read_tensors(folder / name)
        if (folder / index).is_file():
            shards = sorted(set(read_json(folder, index)["weight_map"].values()))
            absent = [shard for shard in shards if not (folder / shard).is_file()]
            if absent:
                raise FileNotFoundError(f"{folder} is not complete: copy {', '.join(absent)} as well.")
            return {key: t for shard in shards for key, t in read_tensors(folder / shard).items()}
    raise FileNotFoundError(f"{folder} has a config.json but no {WEIGHTS}: the copy is not complete.")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .bin that holds nothing but tensors."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{file} ({file.stat().st_size:,} bytes) is cut off or not a file of weights alone: "
            f"copy it again. ({first_line(error)})"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError(f"{file} holds something else than tensors by name.")
    return found


def ours(key: str) -> str:
    """The name a tensor has in MiniLlava's state_dict, from any of the names it has in files."""
    for prefix, replacement in RENAMES:
        if key.startswith(prefix):
            key = replacement + key.removeprefix(prefix)
    return key


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names, without those that are computed."""
    named = {ours(key): tensor for key, tensor in weights.items()}
    return {key: tensor for key, tensor in named.items() if not key.endswith(COMPUTED)}


def parts(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`{"language_model": {...}, "vision_tower": {...}, ...}`: the tensors of each submodule."""
    split: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        part, _, name = key.partition(".")
        split.setdefault(part, {})[name] = tensor
    return split


def find_projector(path: Path) -> Path | None:
    """The file, `path` or one in the folder `path`, whose tensors are a projector's and no others.

    None if there is none, or if it only goes with the adapters beside it.
    """
    if (path / ADAPTER_CONFIG).is_file():
        return None
    files = [path] if path.is_file() else sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
    return next((file for file in files if holds_projector(file)), None)


def holds_projector(file: Path) -> bool:
    """Does a weight file hold a projector and nothing else? Names are read, in a .bin the tensors too."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                keys = list(opened.keys())
        else:
            keys = list(read_tensors(file))
    except (SafetensorError, ValueError):  # damaged, or not of tensors alone
        return False
    return bool(keys) and all(ours(key).startswith("multi_modal_projector.") for key in keys)


def check_keys(weights: dict[str, Tensor], module: nn.Module, source: Path) -> None:
    """Raise ValueError with every key of `weights` that does not fit `module`, and what would."""
    found = {key: list(tensor.shape) for key, tensor in weights.items()}
    wanted = {key: list(tensor.shape) for key, tensor in module.state_dict().items()}
    lines = [f"missing     {k} {wanted[k]}" for k in wanted.keys() - found.keys()]
    lines += [f"unexpected  {k} {found[k]}" for k in found.keys() - wanted.keys()]
    lines += [
        f"wrong shape {k}: the file has {found[k]}, the model {wanted[k]}"
        for k in wanted.keys() & found.keys()
        if wanted[k] != found[k]
    ]
    if lines:
        raise ValueError(
            f"The weights in {source} are not those of this model (nothing was loaded):\n  "
            + "\n  ".join(sorted(lines))
        )
