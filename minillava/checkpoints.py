"""Checkpoints: a MiniLlava on disk is a llava-hf folder, so nothing is ever converted.

`save` and `export` write config.json, model.safetensors, the tokenizer, the image processor and a
chat template; `transformers.LlavaForConditionalGeneration` and `LlavaProcessor` open the folder as
it is. `load` opens one, whichever of the usual names its weights bear (see `weights`), and stops
at any that does not fit. `from_bases` joins a CLIP and a LLaMA by a fresh projector;
`load_projector` puts a stage-1 projector in.
"""

import copy
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPModel,
    CLIPVisionModel,
    GenerationConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.utils import logging

from minillava.conversation import END, IMAGE_TOKEN, SYSTEM
from minillava.model import MiniLlava, projector_type
from minillava.projector import build_projector
from minillava.weights import (
    COMPUTED,
    WEIGHTS,
    check_keys,
    find,
    ours,
    read_json,
    read_tensors,
    read_weights,
)

PAD_TOKEN = "<pad>"
HEAD = "language_model.lm_head.weight"
EMBEDDINGS = "language_model.model.embed_tokens.weight"

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
    {{%- if message.role == "user" %}}{{{{ "USER: " + turn.text + " " }}}}
    {{%- else %}}{{{{ "ASSISTANT: " + turn.text + "{END}" }}}}{{% endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt %}}{{{{ "ASSISTANT:" }}}}{{% endif -%}}
"""
"""The v1 template of `conversation` as Jinja, for `LlavaProcessor.apply_chat_template`.

llava-hf's own has neither system prompt nor `</s>` and shows no question that comes as a string,
as lmms-eval sends it. The space after `<image>` is the `▁` that training has there: the original
tokenizes the text after an image on its own, which puts one in front.
"""


def load(name_or_path: str | Path = "tiny", dtype: torch.dtype | None = None) -> MiniLlava:
    """Open a finished model, on the CPU, ready to answer.

    `name_or_path` is a preset ("tiny" needs no network), a llava-hf folder or a hub id. `dtype`
    defaults to that of the file.

    Raises FileNotFoundError if there is no such folder or a file is not in it, ValueError if the
    folder holds another kind of model, a damaged file, or weights that do not fit the config, key
    by key.
    """
    folder = find(name_or_path)
    config = read_config(folder)
    with no_init_weights():  # the file has them all, and drawing 7B random numbers takes minutes
        model = MiniLlava(config)
    model.language_model.tie_weights()  # a part of initialization, where the config asks for it
    weights = {ours(key): tensor for key, tensor in read_weights(folder).items()}
    weights = {key: tensor for key, tensor in weights.items() if not key.endswith(COMPUTED)}
    if config.text_config.tie_word_embeddings and EMBEDDINGS in weights:
        head = weights.setdefault(HEAD, weights[EMBEDDINGS])
        if not torch.equal(head, weights[EMBEDDINGS]):
            raise ValueError(
                f"{folder}: config.json ties the head to the embeddings (tie_word_embeddings), but "
                f"{HEAD} and {EMBEDDINGS} are two different tensors in the file. Set it to false."
            )
    check_keys(weights, model, folder)
    model.to(dtype or weights[EMBEDDINGS].dtype).load_state_dict(weights)
    return attach(model, read_tokenizer(folder, config.image_token_id))


def from_bases(
    vision_folder: str | Path,
    language_folder: str | Path,
    projector_type: str = "mlp2x_gelu",
    seed: int = 0,
    select_layer: int = -2,
    dtype: torch.dtype = torch.float32,
) -> MiniLlava:
    """Join a pretrained CLIP and a pretrained LLaMA by a fresh projector: what stage 1 starts from.

    `vision_folder` holds a CLIP or its vision half, `language_folder` a LLaMA and its tokenizer;
    hub ids will do. `seed` draws the projector and, if the tokenizer has no `<image>`, the rows of
    the new tokens (see `grow_vocabulary`). Raises as `load` does.
    """
    vision, language = find(vision_folder), find(language_folder)
    clip = read_json(vision, "config.json").get("model_type")
    tower = pretrained(CLIPModel if clip == "clip" else CLIPVisionModel, vision, dtype)
    tower = getattr(tower, "vision_model", tower)
    language_model = pretrained(LlamaForCausalLM, language, dtype)
    tokenizer = read_tokenizer(language)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if IMAGE_TOKEN not in tokenizer.get_vocab():
            grow_vocabulary(language_model, tokenizer)
        text = language_model.config
        projector = build_projector(projector_type, tower.config.hidden_size, text.hidden_size)
    text.pad_token_id = tokenizer.pad_token_id
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2,
        vision_feature_layer=select_layer,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    if projector_type != "mlp2x_gelu":
        config.mm_projector_type = projector_type
    with torch.device("meta"):  # the frame alone: all three parts come from elsewhere
        model = MiniLlava(config)
    model.vision_tower = tower.requires_grad_(False)
    model.multi_modal_projector = projector.to(dtype)
    model.language_model = language_model
    return attach(model, tokenizer)


def save(model: MiniLlava, folder: str | Path, weights: dict[str, Tensor] | None = None) -> Path:
    """Write a checkpoint folder that `load` opens; returns the folder.

    Every file is complete on disk before the first one takes its place, and the weights come last:
    a full disk or a killed process leaves the previous checkpoint. Files of other names stay.
    `weights` replaces `model.state_dict()` where a sharded model has gathered its own.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
        write_folder(model, Path(unfinished), weights or model.state_dict())
        files = sorted(Path(unfinished).iterdir(), key=lambda file: file.name == WEIGHTS)
        for file in files:
            flush(file)
        for file in files:
            os.replace(file, folder / file.name)
    return folder


def export(model: MiniLlava, folder: str | Path) -> Path:
    """Write a folder for transformers, lmms-eval and others who read llava-hf's layout.

    It is what `save` writes, except that the "linear" projector, which transformers does not know,
    raises ValueError.
    """
    if projector_type(model.config) != "mlp2x_gelu":
        raise ValueError(
            f"transformers' LLaVA has no {projector_type(model.config)!r} projector, so this model "
            "cannot be exported. Use save() to keep it, or train one with 'mlp2x_gelu'."
        )
    return save(model, folder)


def save_projector(model: MiniLlava, path: str | Path) -> Path:
    """Write the projector alone, which is all that stage 1 trains, to a .safetensors file."""
    path = Path(path)
    prefix = "multi_modal_projector."
    weights = {prefix + k: v for k, v in model.multi_modal_projector.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as unfinished:
        file = Path(unfinished) / path.name
        write_tensors(contiguous(weights), file)
        flush(file)
        os.replace(file, path)
    return path


def load_projector(model: MiniLlava, path: str | Path) -> None:
    """Put a projector that was saved alone into `model`.

    `path` is a file of `save_projector` or the original's mm_projector.bin, whose layers 0 and 2
    are `linear_1` and `linear_2` (llava/train/train.py). Raises as `load` does.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no projector file {path}.")
    layers = {"0": "linear_1", "2": "linear_2"}
    weights = {}
    for key, tensor in read_tensors(path).items():
        if "mm_projector." in key:  # behind "model.", and PEFT's "base_model.model." after LoRA
            layer, _, kind = key.rpartition("mm_projector.")[2].rpartition(".")
            key = f"{layers.get(layer, layer) or 'linear_1'}.{kind}"
        weights[ours(key).removeprefix("multi_modal_projector.")] = tensor
    check_keys(weights, model.multi_modal_projector, path)
    model.multi_modal_projector.load_state_dict(weights)


def grow_vocabulary(language_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add `<image>` and `<pad>` to a LLaMA that was not made for pictures, as llava-hf does.

    Vicuna's 32000 tokens become 32002, its tables 32064 rows, the next multiple of 64. New rows
    are drawn from N(mean, 1e-5 cov) of the old rows of the same table, so that they look like
    tokens but are none (transformers' former convert_llava_weights_to_hf.py).
    """
    tokens = [AddedToken(t, special=True, normalized=False) for t in (IMAGE_TOKEN, PAD_TOKEN)]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.pad_token = PAD_TOKEN
    old = language_model.config.vocab_size
    if len(tokenizer) <= old:
        return
    language_model.resize_token_embeddings(
        len(tokenizer), pad_to_multiple_of=64, mean_resizing=False
    )
    tables = [language_model.get_input_embeddings().weight]
    if not language_model.config.tie_word_embeddings:
        tables.append(language_model.get_output_embeddings().weight)
    for table in tables:
        rows = table.data[:old].float()
        mean = rows.mean(dim=0)
        # Random mixtures of the centered rows have their covariance; no matrix to factor.
        mixtures = torch.randn(len(table) - old, old) @ (rows - mean) / old**0.5
        table.data[old:] = (mean + 1e-5**0.5 * mixtures).to(table.dtype)


def read_config(folder: Path) -> LlavaConfig:
    """config.json of a llava-hf folder."""
    found = read_json(folder, "config.json")
    kind = found.get("model_type")
    if "mm_vision_tower" in found:
        raise ValueError(
            f"{folder} is in the original LLaVA's layout. Take the same model from llava-hf (like "
            "llava-hf/llava-1.5-7b-hf), or use from_bases() and load_projector() on its "
            "mm_projector.bin."
        )
    if kind != "llava":
        raise ValueError(
            f"{folder} holds a {kind!r} model, not a llava one. To build a LLaVA on a vision tower "
            "and a language model use from_bases()."
        )
    config = LlavaConfig.from_dict(found)
    config.text_config.tie_word_embeddings = config.tie_word_embeddings
    return config


def read_tokenizer(folder: Path, image_token_id: int | None = None) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; with `image_token_id`, one whose `<image>` has to have that id."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise FileNotFoundError(
            f"{folder} has no tokenizer.json: copy the tokenizer's files as well."
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if image_token_id is not None:
        found = tokenizer.get_vocab().get(IMAGE_TOKEN)
        if found != image_token_id:
            raise ValueError(
                f"{folder}: {IMAGE_TOKEN} is token {found} of the tokenizer, but config.json says "
                f"{image_token_id} (image_token_index). The two files are of different models."
            )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = (
            tokenizer.unk_token
        )  # as the original does; the mask says what is padding
    return tokenizer


def pretrained(kind: type[nn.Module], folder: Path, dtype: torch.dtype) -> nn.Module:
    """A base model by transformers' own reader, complete or not at all."""
    found = read_json(folder, "config.json").get("model_type")
    wanted = ("clip", "clip_vision_model") if kind is not LlamaForCausalLM else ("llama",)
    if found not in wanted:
        raise ValueError(f"{folder} holds a {found!r} model; expected {' or '.join(wanted)}.")
    with without_progress_bar():
        model, report = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    wrong = {k: sorted(map(str, v)) for k, v in report.items() if v}
    if wrong:
        raise ValueError(f"{folder} does not fit its config.json: {wrong}")
    return model


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Keep transformers' progress bar out of notebooks, whose output has to repeat."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def attach(model: MiniLlava, tokenizer: PreTrainedTokenizerBase) -> MiniLlava:
    """Give a model what it needs beside weights: tokenizer, image processor, greedy decoding."""
    size = model.config.vision_config.image_size
    model.tokenizer = tokenizer
    # do_pad: as in stage 2. Its default in transformers cuts the sides of a picture off instead.
    model.image_processor = LlavaImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_pad=True
    )
    model.language_model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model.eval()


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
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = (
        "left"  # for batches of prompts
    )
    LlavaProcessor(
        image_processor=model.image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLS, which "default" takes off again
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


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
