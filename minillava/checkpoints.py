"""Checkpoints: a MiniLlava on disk is a llava-hf folder, so nothing is ever converted.

`save` and `export` write config.json, model.safetensors, the tokenizer, the image processor and a
chat template; `transformers.LlavaForConditionalGeneration` and `LlavaProcessor` open the folder as
it is. `load` opens one, whichever of the usual names its weights bear (see `weights`), and what holds
only a part of one: a projector, or the adapters of LoRA. It goes by the files and the tensors in them,
never by a folder's name, and stops at any that does not fit.
"""

import copy
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlavaConfig, LlavaProcessor
from transformers.initialization import no_init_weights

from minillava import lora
from minillava.bases import (
    attach,
    base_configs,
    from_bases,
    from_original,
    grow_vocabulary,
    load_projector,
    pads,
    read_tokenizer,
)
from minillava.config import PRESETS
from minillava.conversation import END, IMAGE_TOKEN, SYSTEM
from minillava.model import MiniLlava
from minillava.projector import projector_type
from minillava.weights import (
    ADAPTER_CONFIG,
    INDEXED,
    WEIGHTS,
    check_keys,
    find,
    find_projector,
    intact,
    read_json,
    read_tensors,
    read_weights,
    renamed,
)

__all__ = [
    "CHAT_TEMPLATE",
    "attach",
    "export",
    "from_bases",
    "from_original",
    "grow_vocabulary",
    "load",
    "load_projector",
    "read_config",
    "read_tokenizer",
    "save",
    "save_adapters",
    "save_projector",
]

HEAD = "language_model.lm_head.weight"
EMBEDDINGS = "language_model.model.embed_tokens.weight"

ADAPTERS, NOT_ADAPTERS = "adapter_model.safetensors", "non_lora_trainables.bin"
"""What the original leaves of a stage with LoRA (llava/train/train.py), beside ADAPTER_CONFIG."""

CHAT_TEMPLATE = f"""
{{%- set chat = messages -%}}
{{%- set system = "{SYSTEM}" -%}}
{{%- if chat and chat[0].role == "system" -%}}
    {{%- set system = chat[0].content -%}}
    {{%- if system is not string -%}}
        {{%- set system = system | map(attribute="text") | join -%}}
    {{%- endif -%}}
    {{%- set chat = chat[1:] -%}}
{{%- endif -%}}
{{{{- system + " " -}}}}
{{%- for message in chat -%}}
    {{%- set turn = namespace(image=false, text="") -%}}
    {{%- if message.content is string -%}}
        {{%- set turn.text = message.content -%}}
    {{%- else -%}}
        {{%- for part in message.content -%}}
            {{%- if part.type == "text" %}}{{% set turn.text = turn.text + part.text -%}}
            {{%- else %}}{{% set turn.image = true %}}{{% endif -%}}
        {{%- endfor -%}}
    {{%- endif -%}}
    {{%- if turn.image or "{IMAGE_TOKEN}" in turn.text -%}}
        {{%- set turn.text = turn.text.replace("{IMAGE_TOKEN}", "").strip() -%}}
        {{%- set turn.text = "{IMAGE_TOKEN}" + (" \\n" + turn.text if turn.text else "") -%}}
    {{%- endif -%}}
    {{%- set is_user = message.role == "user" -%}}
    {{{{- "USER:" if is_user else "ASSISTANT:" -}}}}
    {{%- if turn.text %}}{{{{ " " + turn.text + (" " if is_user else "{END}") }}}}{{% endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt %}}{{{{ "ASSISTANT:" }}}}{{% endif -%}}
"""
"""The v1 template of `conversation` as Jinja, for `LlavaProcessor.apply_chat_template`.

llava-hf's own has neither system prompt nor `</s>` and shows no question that comes as a string,
as lmms-eval sends it. The space after `<image>` is the `▁` that training has there: the original
tokenizes the text after an image on its own, which puts one in front.
"""


def load(
    name_or_path: str | Path = "tiny",
    dtype: torch.dtype | None = None,
    base: str | Path | None = None,
) -> MiniLlava:
    """Open a model, on the CPU, ready to answer.

    `name_or_path` is a preset ("tiny" needs no network), a folder or a hub id:

    - a llava-hf folder, which is what `save`, `export` and stage 2 write;
    - the folder of a run, or of one of its stages: the one model in it;
    - a projector alone (stage 1's, or the original's mm_projector.bin), itself or its folder. It is put
      between the bases of the preset whose widths it has;
    - the adapters of LoRA, ours, the original's or peft's. They are merged into the base model that
      adapter_config.json names;
    - a folder in the original's layout, such as its merge_lora_weights.py writes.

    `base`, for a projector or adapters, is the model to put them in, where it is not that one. `dtype`
    defaults to that of the file.

    Raises FileNotFoundError if there is no such folder or a file is not in it, ValueError if the
    folder holds another kind of model, a damaged file, or weights that do not fit, key by key.
    """
    path = Path(name_or_path).expanduser()
    projector = find_projector(path) if path.is_file() else None
    source = projector or find(name_or_path)
    whole = any((source / name).is_file() for pair in INDEXED.items() for name in pair)
    if (source / ADAPTER_CONFIG).is_file():
        model = _with_adapters(source, base, dtype)
    elif not whole and (projector or (projector := find_projector(source))):
        model = _with_projector(projector, base, dtype)
    elif base is not None:
        raise ValueError(f"{source} holds no projector or adapters alone, so no base goes with it.")
    elif (source / "config.json").is_file() or not (inner := _models_in(source)):
        model = _whole(source, dtype)
    elif len(inner) > 1:
        raise ValueError(f"{source} holds several models, say which: {', '.join(map(str, inner))}.")
    else:
        return load(inner[0], dtype)
    model.config.name_or_path = str(name_or_path)
    return model


def _models_in(run: Path) -> list[Path]:
    """What the stages of a run have left: its whole models, or if there are none its projectors."""
    for pattern in (f"*/{WEIGHTS}", f"*/*/{WEIGHTS}"):
        if models := sorted(file.parent for file in run.glob(pattern)):
            return models
    return sorted(file for entry in run.iterdir() if entry.is_dir() and (file := find_projector(entry)))


def _whole(folder: Path, dtype: torch.dtype | None) -> MiniLlava:
    """A folder in llava-hf's layout or in the original's."""
    if "mm_vision_tower" in read_json(folder, "config.json"):
        return from_original(folder, dtype)
    config = read_config(folder)
    # The file has all weights, and drawing 7B random numbers takes minutes.
    with no_init_weights(), intact(folder / "config.json"):
        model = MiniLlava(config)
    model.language_model.tie_weights()  # a part of initialization, where the config asks for it
    weights = renamed(read_weights(folder))
    if config.text_config.tie_word_embeddings and EMBEDDINGS in weights:
        head = weights.setdefault(HEAD, weights[EMBEDDINGS])
        if not torch.equal(head, weights[EMBEDDINGS]):
            raise ValueError(
                f"{folder}: config.json ties the head to the embeddings (tie_word_embeddings), but "
                f"{HEAD} and {EMBEDDINGS} are two different tensors in the file. Set it to false."
            )
    check_keys(weights, model, folder)
    model.to(dtype or weights[EMBEDDINGS].dtype).load_state_dict(weights)
    return attach(model, read_tokenizer(folder, config.image_token_id), pads(folder))


def _with_projector(file: Path, base: str | Path | None, dtype: torch.dtype | None) -> MiniLlava:
    """The bases of the preset that a projector's widths fit, or `base`, with this projector."""
    weights = renamed(read_tensors(file))
    first = weights.get("multi_modal_projector.linear_1.weight", torch.empty(0, 0))
    widths = {}
    for preset in () if base else PRESETS.values():
        vision, text = base_configs(preset)
        widths[preset.name] = [text.hidden_size, vision.hidden_size]
    fitting = next((name for name, shape in widths.items() if shape == list(first.shape)), None)
    if base:
        model = load(base, dtype)
    elif fitting:
        deep = "multi_modal_projector.linear_2.weight" in weights
        model = from_bases(
            PRESETS[fitting].vision_tower,
            PRESETS[fitting].language_model,
            projector_type="mlp2x_gelu" if deep else "linear",
            select_layer=PRESETS[fitting].select_layer,
            dtype=dtype or first.dtype,
        )
    else:
        raise ValueError(
            f"{file} holds a projector alone, linear_1.weight {list(first.shape)}, and no preset's bases "
            f"take one of that shape ({widths}): give the model to put it in, load(..., base=FOLDER)."
        )
    load_projector(model, file)
    return model


def _with_adapters(folder: Path, base: str | Path | None, dtype: torch.dtype | None) -> MiniLlava:
    """The base model of adapters, with them and what was trained beside them merged into it."""
    settings = read_json(folder, ADAPTER_CONFIG)
    files = [folder / name for name in (ADAPTERS, "adapter_model.bin") if (folder / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{folder} has {ADAPTER_CONFIG} but no {ADAPTERS}: copy it as well.")
    tensors = read_tensors(files[0])
    if (folder / NOT_ADAPTERS).is_file():
        tensors |= read_tensors(folder / NOT_ADAPTERS)

    name = base or settings.get("base_model_name_or_path")
    if not name:
        raise ValueError(
            f"{folder} holds adapters, but its {ADAPTER_CONFIG} names no base model: give the one they "
            "were trained on, load(..., base=FOLDER)."
        )
    try:
        found = {} if Path(name).is_file() else _config(find(name))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} holds adapters for {name}. {error} Give the base model, load(..., base=FOLDER)."
        ) from error
    if found.get("model_type") == "llama":
        beside = _config(folder)
        if not beside.get("mm_vision_tower") or not any("projector" in key for key in tensors):
            raise FileNotFoundError(
                f"{folder} holds adapters for the language model {name}; for a LLaVA it also takes "
                f"the projector ({NOT_ADAPTERS}) and a config.json with mm_vision_tower: copy both."
            )
        stored = found.get("dtype") or found.get("torch_dtype") or "float32"
        model = from_bases(
            beside["mm_vision_tower"],
            name,
            projector_type=beside.get("mm_projector_type", "linear"),
            select_layer=beside.get("mm_vision_select_layer", -2),
            dtype=dtype or getattr(torch, stored),
        )
    else:
        model = load(name, dtype)
    lora.merge_saved(model, tensors, settings, folder)
    if aspect := _config(folder).get("image_aspect_ratio"):
        model.image_processor.do_pad = aspect == "pad"
    return model


def _config(folder: Path) -> dict:
    """config.json, or nothing where there is none."""
    return read_json(folder, "config.json") if (folder / "config.json").is_file() else {}


def save(model: MiniLlava, folder: str | Path, weights: dict[str, Tensor] | None = None) -> Path:
    """Write a checkpoint folder that `load` opens; returns the folder.

    Every file is complete on disk before the first one takes its place, and the weights come last:
    a full disk or a killed process leaves the previous checkpoint. Files of other names stay.
    Adapters are merged into a copy of the weights; `model` keeps them. `weights` replaces the model's
    own where a sharded one has gathered them. Raises ValueError for a folder of another kind of model.
    """
    if (kind := _config(Path(folder)).get("model_type", "llava")) != "llava":
        raise ValueError(f"{folder} holds a {kind!r} model, which a LLaVA would replace: give a new folder.")
    return _replace_files(folder, lambda new: write_folder(model, new, weights or lora.merged_state(model)))


def export(model: MiniLlava, folder: str | Path, weights: dict[str, Tensor] | None = None) -> Path:
    """Write a folder for transformers, lmms-eval and others who read llava-hf's layout.

    It is what `save` writes, except that the "linear" projector, which transformers does not know,
    raises ValueError.
    """
    if projector_type(model.config) != "mlp2x_gelu":
        raise ValueError(
            f"transformers' LLaVA has no {projector_type(model.config)!r} projector, so this model "
            "cannot be exported. Use save() to keep it, or train one with 'mlp2x_gelu'."
        )
    return save(model, folder, weights)


def save_projector(model: MiniLlava, path: str | Path) -> Path:
    """Write the projector alone, which is all that stage 1 trains, to a .safetensors file."""
    path = Path(path)
    prefix = "multi_modal_projector."
    weights = {prefix + k: v for k, v in model.multi_modal_projector.state_dict().items()}
    _replace_files(path.parent, lambda new: write_tensors(contiguous(weights), new / path.name))
    return path


def save_adapters(model: MiniLlava, folder: str | Path) -> Path:
    """Write what a stage with LoRA trained, adapters and projector, in the original's layout.

    `load` opens the folder, and so does `peft` on the language model alone. It names the base model as
    `model` was loaded by; raises ValueError if `model` has no adapters.
    """
    adapters, settings = lora.adapter_state(model)
    vision, text = model.config.vision_config, model.config.text_config
    settings["base_model_name_or_path"] = model.config.name_or_path or text.name_or_path
    projector = {
        f"base_model.model.model.mm_projector.{key.replace('linear_1', '0').replace('linear_2', '2')}": t
        for key, t in contiguous(model.multi_modal_projector.state_dict()).items()
    }
    config = text.to_dict() | {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": vision.name_or_path,
        "mm_vision_select_layer": model.config.vision_feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": vision.hidden_size,
        "mm_projector_type": projector_type(model.config),
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": model.aspect,
    }

    def write(new: Path) -> None:
        write_tensors(contiguous(adapters), new / ADAPTERS)
        torch.save(projector, new / NOT_ADAPTERS)
        for name, content in ((ADAPTER_CONFIG, settings), ("config.json", config)):
            (new / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

    return _replace_files(folder, write)


def _replace_files(folder: str | Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill an empty folder, then put its files, whole and flushed, into `folder`.

    The weights come last, so that a process killed in between leaves those of the previous checkpoint.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.unfinished-"
    for left in folder.parent.glob(f"{glob.escape(prefix)}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as unfinished:
        write(Path(unfinished))
        files = sorted(Path(unfinished).iterdir(), key=lambda file: file.suffix == ".safetensors")
        for file in files:
            flush(file)
        for file in files:
            os.replace(file, folder / file.name)
    return folder


def read_config(folder: Path) -> LlavaConfig:
    """config.json of a llava-hf folder."""
    found = read_json(folder, "config.json")
    kind = found.get("model_type")
    if kind != "llava":
        raise ValueError(
            f"{folder} holds a {kind!r} model, not a llava one. To build a LLaVA on a vision tower "
            "and a language model use from_bases()."
        )
    with intact(folder / "config.json"):
        config = LlavaConfig.from_dict(found)
    config.text_config.tie_word_embeddings = config.tie_word_embeddings
    return config


def write_folder(model: MiniLlava, folder: Path, weights: dict[str, Tensor]) -> None:
    """The files of a llava-hf folder, into an empty one."""
    weights = contiguous(weights)
    if model.config.text_config.tie_word_embeddings:
        weights.pop(HEAD)  # the same tensor as the embeddings, stored once
    write_tensors(weights, folder / WEIGHTS)
    config = copy.deepcopy(model.config)
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = weights[EMBEDDINGS].dtype
    for part in (config, config.vision_config, config.text_config):
        part.name_or_path = ""  # else the path of the base on this machine
    config.save_pretrained(folder)
    model.language_model.generation_config.save_pretrained(folder)
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # for batches of prompts
    for how in ("is_local", "local_files_only"):  # this machine read it
        tokenizer.init_kwargs.pop(how, None)
    LlavaProcessor(
        image_processor=model.image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLS, which "default" takes off again
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    # transformers 5 reads a llava folder's tokenizer as a class that version 4, and so lmms-eval, has not.
    file = folder / "tokenizer_config.json"
    file.write_text(file.read_text().replace('"TokenizersBackend"', '"LlamaTokenizer"'))


def contiguous(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: detached, each with its own block of memory."""
    return {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}


def write_tensors(weights: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file that may be read by whoever may read the files beside it."""
    file.touch()
    mode = file.stat().st_mode
    save_file(weights, file, metadata={"format": "pt"})
    file.chmod(mode)


def flush(file: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())
