"""Two pretrained models, joined: where every LLaVA starts, and how the original's own folders are read.

`from_bases` joins a CLIP and a LLaMA by a fresh projector; `load_projector` puts a trained one in;
`from_original` opens a folder in the original's layout, as its training and its merge_lora_weights.py
write it. `checkpoints` offers all three beside `load`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import (
    AutoTokenizer,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.utils import logging

from minillava.config import Preset
from minillava.conversation import IMAGE_TOKEN
from minillava.decoder import packable
from minillava.model import MiniLlava
from minillava.projector import build_projector
from minillava.weights import check_keys, find, intact, parts, read_json, read_tensors, read_weights, renamed

PAD_TOKEN = "<pad>"
"""llava-hf's padding token; the original pads with `<unk>`."""


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
    tower = pretrained_tower(vision_folder, dtype)
    folder = find(language_folder)
    language_model = pretrained(LlamaForCausalLM, folder, dtype)
    language_model.config.name_or_path = str(language_folder)
    return join(tower, language_model, read_tokenizer(folder), projector_type, seed, select_layer)


def join(
    tower: CLIPVisionModel,
    language_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    projector_type: str = "mlp2x_gelu",
    seed: int = 0,
    select_layer: int = -2,
) -> MiniLlava:
    """A MiniLlava around two models that are in memory already; arguments as in `from_bases`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if IMAGE_TOKEN not in tokenizer.get_vocab():
            grow_vocabulary(language_model, tokenizer)
        text = language_model.config
        projector = build_projector(projector_type, tower.config.hidden_size, text.hidden_size)
    text.pad_token_id = tokenizer.pad_token_id
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    config = join_configs(tower.config, text, image_token_id, select_layer)
    if projector_type != "mlp2x_gelu":
        config.mm_projector_type = projector_type
    with torch.device("meta"):  # the frame alone: all three parts come from elsewhere
        model = MiniLlava(config)
    model.vision_tower = tower.requires_grad_(False)
    model.multi_modal_projector = projector.to(language_model.dtype)
    model.language_model = packable(language_model)
    return attach(model, tokenizer)


def join_configs(
    vision: CLIPVisionConfig, text: LlamaConfig, image_token_id: int, select_layer: int = -2
) -> LlavaConfig:
    """The config of the two together."""
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=select_layer,
        tie_word_embeddings=text.tie_word_embeddings,
    )


def base_configs(preset: Preset) -> tuple[CLIPVisionConfig, LlamaConfig]:
    """A preset's bases without their weights, from its numbers or from the folders that it names."""
    if preset.vision_sizes and preset.text_sizes:
        return CLIPVisionConfig(**preset.vision_sizes), LlamaConfig(**preset.text_sizes)
    vision_folder, text_folder = find(preset.vision_tower), find(preset.language_model)
    vision, text = read_json(vision_folder, "config.json"), read_json(text_folder, "config.json")
    with intact(vision_folder / "config.json"):
        vision_config = CLIPVisionConfig(**vision.get("vision_config", vision))
    with intact(text_folder / "config.json"):
        return vision_config, LlamaConfig(**text)


def from_original(folder: Path, dtype: torch.dtype | None = None) -> MiniLlava:
    """Open a whole model in the original's layout (llava/train/train.py, scripts/merge_lora_weights.py).

    Its config.json is a LLaMA's with the vision tower's name in `mm_vision_tower`; its weights are the
    language model's and `mm_projector`'s, with or without the tower's. `<image>` and `<pad>` are added
    to the vocabulary as llava-hf does. `dtype` defaults to that of the file. Raises as
    `checkpoints.load` does, and ValueError for a variant that is not LLaVA-1.5.
    """
    found = read_json(folder, "config.json")
    check_original(found, folder)
    with intact(folder / "config.json"):
        config = LlamaConfig.from_dict({**found, "model_type": "llama"})
    weights = parts(renamed(read_weights(folder)))
    with torch.device("meta"), intact(folder / "config.json"):
        frame = LlamaForCausalLM(config)
    check_keys(weights.get("language_model", {}), frame, folder)
    with no_init_weights():  # the file has them all
        language_model = LlamaForCausalLM(config)
    dtype = dtype or weights["language_model"]["lm_head.weight"].dtype
    language_model.to(dtype).load_state_dict(weights["language_model"])
    tower = pretrained_tower(found["mm_vision_tower"], dtype)
    if "vision_tower" in weights:
        check_keys(weights["vision_tower"], tower, folder)
        tower.load_state_dict(weights["vision_tower"])
    model = join(
        tower,
        language_model,
        read_tokenizer(folder),
        found.get("mm_projector_type", "linear"),
        select_layer=found.get("mm_vision_select_layer", -2),
    )
    model.image_processor.do_pad = found.get("image_aspect_ratio") == "pad"  # else `process_images` crops
    projector = weights.get("multi_modal_projector", {})
    check_keys(projector, model.multi_modal_projector, folder)
    model.multi_modal_projector.load_state_dict(projector)
    return model


def check_original(config: dict, folder: Path) -> None:
    """Stop at an original config that asks for what LLaVA-1.5 does not have."""
    wanted = {"mm_use_im_start_end": False, "mm_vision_select_feature": "patch"}
    wrong = {key: config[key] for key, value in wanted.items() if config.get(key, value) != value}
    if config.get("image_aspect_ratio") not in (None, "square", "pad"):
        wrong["image_aspect_ratio"], wanted["image_aspect_ratio"] = config["image_aspect_ratio"], "pad"
    if wrong:
        raise ValueError(f"{folder} is not a LLaVA-1.5: its config.json has {wrong}, not {wanted}.")


def load_projector(model: MiniLlava, path: str | Path) -> None:
    """Put a projector that was saved alone into `model`.

    `path` is a file of `save_projector` or the original's mm_projector.bin, whose layers 0 and 2
    are `linear_1` and `linear_2` (llava/train/train.py). Raises as `load` does.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no projector file {path}.")
    weights = renamed(read_tensors(path))
    weights = {key.removeprefix("multi_modal_projector."): weights[key] for key in weights}
    check_keys(weights, model.multi_modal_projector, path)
    model.multi_modal_projector.load_state_dict(weights)


def grow_vocabulary(language_model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add `<image>` and `<pad>` to a LLaMA that was not made for pictures, as llava-hf does.

    Vicuna's 32000 tokens become 32002, its tables 32064 rows, the next multiple of 64. The new rows
    of both tables are drawn from N(mean, 1e-5 cov) of the *embeddings'* old rows, so that they look
    like tokens but are none (transformers' former convert_llava_weights_to_hf.py).
    """
    tokens = [AddedToken(t, special=True, normalized=False) for t in (IMAGE_TOKEN, PAD_TOKEN)]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.pad_token = PAD_TOKEN
    old = language_model.config.vocab_size
    if len(tokenizer) <= old:
        return
    language_model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    embeddings = language_model.get_input_embeddings().weight
    tables = [embeddings]
    if not language_model.config.tie_word_embeddings:
        tables.append(language_model.get_output_embeddings().weight)
    rows = embeddings.data[:old].float()
    mean = rows.mean(dim=0)
    for table in tables:
        # Random mixtures of the centered rows have their covariance; no matrix to factor.
        mixtures = torch.randn(len(table) - old, old) @ (rows - mean) / old**0.5
        table.data[old:] = (mean + 1e-5**0.5 * mixtures).to(table.dtype)


def read_tokenizer(folder: Path, image_token_id: int | None = None) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; with `image_token_id`, one whose `<image>` has to have that id."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise FileNotFoundError(f"{folder} has no tokenizer.json: copy the tokenizer's files as well.")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder, name)
    with intact(f"The tokenizer of {folder}"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if image_token_id is not None:
        found = tokenizer.get_vocab().get(IMAGE_TOKEN)
        if found != image_token_id:
            raise ValueError(
                f"{folder}: {IMAGE_TOKEN} is token {found} of the tokenizer, but config.json says "
                f"{image_token_id} (image_token_index). The two files are of different models."
            )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token  # as the original does; the mask says what is padding
    grown = IMAGE_TOKEN in tokenizer.get_vocab()  # else it gets a <pad> as it grows
    if tokenizer.eos_token_id is None or (grown and tokenizer.pad_token_id is None):
        raise ValueError(f"{folder}: its tokenizer has no end or no padding: copy its tokenizer_config.json.")
    return tokenizer


def pads(folder: Path) -> bool:
    """Whether a llava-hf folder's pictures are padded. Where it does not say they are, as LLaVA-1.5's were
    in training: the published folders do not say it."""
    for name, part in (("processor_config.json", "image_processor"), ("preprocessor_config.json", None)):
        if (folder / name).is_file():
            found = read_json(folder, name)
            found = found.get(part) or {} if part else found
            if isinstance(found.get("do_pad"), bool):
                return found["do_pad"]
    return True


def pretrained_tower(name_or_path: str | Path, dtype: torch.dtype) -> CLIPVisionModel:
    """The vision half of a CLIP, from the folder of a whole CLIP or of that half."""
    folder = find(name_or_path)
    whole = read_json(folder, "config.json").get("model_type") == "clip"
    tower = pretrained(CLIPModel if whole else CLIPVisionModel, folder, dtype)
    tower = tower.vision_model if whole else tower
    tower.config.name_or_path = str(name_or_path)
    return tower


def pretrained(kind: type[nn.Module], folder: Path, dtype: torch.dtype) -> nn.Module:
    """A base model by transformers' own reader, complete or not at all; ValueError where it is not."""
    found = read_json(folder, "config.json").get("model_type")
    wanted = ("clip", "clip_vision_model") if kind is not LlamaForCausalLM else ("llama",)
    if found not in wanted:
        raise ValueError(f"{folder} holds a {found!r} model; expected {' or '.join(wanted)}.")
    with without_progress_bar(), intact(folder):
        model, report = kind.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True  # `report` has them
        )
    wrong = {what: f"{len(keys)}, such as {min(map(str, keys))}" for what, keys in report.items() if keys}
    if wrong:
        raise ValueError(f"{folder} does not fit its config.json: copy it again, all of it. {wrong}")
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


def attach(model: MiniLlava, tokenizer: PreTrainedTokenizerBase, pad: bool = True) -> MiniLlava:
    """Give a model what it needs beside weights: tokenizer, image processor, greedy decoding."""
    size = model.config.vision_config.image_size
    model.tokenizer = tokenizer
    # do_pad: as in stage 2. Its default in transformers cuts the sides of a picture off instead.
    model.image_processor = LlavaImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, do_pad=pad
    )
    model.language_model.generation_config = greedy(tokenizer)
    return model.eval()


def greedy(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Generation that always takes the likeliest token, and knows the tokenizer's ends; whatever sampling the
    language model's own folder asks for is left behind."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
