"""MiniLlava: a frozen vision tower, a projector, and a language model that reads through it.

Notation: B batch, T sequence positions, I pictures in the batch, N patches of a picture, D_v width
of the vision tower, D width of the language model, V vocabulary.

    picture [3, S, S]                          "USER: <image>\\nWhat is red? ASSISTANT:"
        | vision_tower (frozen), layer -2              | conversation.encode
    features [N, D_v]                          input_ids [T], N of them the id of <image>
        | multi_modal_projector                        | language_model's embedding table
    embeddings [N, D]  ------- splice ------>  inputs_embeds [T, D]
                                                       | language_model
                                               logits [T, V]: the next token, at every position

From the splice on nothing knows which positions came from a picture: they have become words.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModel, GenerationConfig, LlamaForCausalLM, LlavaConfig
from transformers.utils import ModelOutput

from minillava.config import IGNORE_INDEX
from minillava.conversation import IMAGE_TOKEN, encode
from minillava.decoder import decode, packable, watched
from minillava.images import open_image, preprocess
from minillava.prefix import pad_behind, shared_length
from minillava.projector import build_projector, projector_type
from minillava.vision import encode_patches

MAX_NEW_TOKENS = 512
"""Length limit of an answer where the caller gives none (llava/eval/run_llava.py)."""

WORTH_SHARING = 8
"""A shorter common beginning, as `<s>` alone, costs more to copy to each sample than to compute in it."""

Picture = Image.Image | str | Path | bytes
"""Whatever `images.open_image` opens."""


@dataclass
class MiniLlavaOutput(ModelOutput):
    """What `forward` returns. A ModelOutput because FSDP looks inside those for tensors.

    loss: scalar, mean cross-entropy in nats over the supervised tokens, or None without labels.
    logits: [B, T, V], or None if not wanted.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None


class MiniLlava(nn.Module):
    """LLaVA-1.5. Its `state_dict()` is the weight file of a llava-hf folder, key by key.

    `config` is transformers' LlavaConfig; `config.mm_projector_type` (the original's name for it)
    may choose the "linear" projector of LLaVA v1. A config that asks for something LLaVA-1.5 does
    not have raises ValueError. `checkpoints.load` and `checkpoints.from_bases` attach `tokenizer`
    and `image_processor`.
    """

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        check_config(config)
        self.config = config
        vision, text = config.vision_config, config.text_config
        self.vision_tower = CLIPVisionModel(vision)
        self.multi_modal_projector = build_projector(
            projector_type(config), vision.hidden_size, text.hidden_size
        )
        self.language_model = packable(LlamaForCausalLM(text))
        # Both stages leave the tower as it is; frozen, it costs no autograd graph.
        self.vision_tower.requires_grad_(False)
        self.tokenizer = None
        self.image_processor = None

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where inputs have to be."""
        return self.multi_modal_projector.linear_1.weight.device

    @property
    def num_image_tokens(self) -> int:
        """N, the positions one picture takes (576 in LLaVA-1.5)."""
        vision = self.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    @property
    def aspect(self) -> str:
        """How pictures become square, "pad" or "square" (see `images`): as in the stage that trained it last.

        The original keeps it in config.json as `image_aspect_ratio` (llava/train/train.py), llava-hf's
        folders in the image processor.
        """
        return "pad" if self.image_processor is None or self.image_processor.do_pad else "square"

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        image_features: Tensor | None = None,
        all_logits: bool = True,
    ) -> MiniLlavaOutput:
        """Predict the next token at every position; with labels, measure how well.

        input_ids [B, T]: token ids; each picture has N consecutive `<image>` ids.
        pixel_values [I, 3, S, S]: the pictures in reading order; None or I = 0 if there are none.
        attention_mask [B, T]: 1 for tokens, 0 for padding, on either side.
        labels [B, T]: the id at each supervised position, IGNORE_INDEX elsewhere. Not shifted:
            position t is predicted from position t-1.
        image_features [I, N, D_v]: what `encode_images` returned for these pictures, in place of
            `pixel_values`. The tower is frozen: features kept from an earlier epoch are the same.
        all_logits: False, with labels, returns no logits, leaves padding out, reads what all samples
            begin with once, and runs the last layer and the head only where a label is predicted.
            Same loss, less work. (LoRA's dropout then falls on that beginning alike in all samples.)
            While a layer's attention is hooked (`record`, `knock_out`), it is taken as True.

        Raises ValueError if pictures and placeholders do not match, or if labels supervise nothing.
        """
        all_logits = all_logits or watched(self.language_model)
        if image_features is None:
            image_features = self.encode_images(pixel_values)
        image_embeds = self.project(image_features)
        inputs_embeds = self.splice(input_ids, image_embeds)
        decoder, head = self.language_model.model, self.language_model.lm_head
        logits = None
        if labels is None or all_logits:
            hidden = decoder(
                inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=False
            ).last_hidden_state  # [B, T, D]
            logits = head(hidden)
            if labels is None:
                return MiniLlavaOutput(logits=logits)

        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)  # [B, T]: what t predicts
        supervised = targets != IGNORE_INDEX
        if not supervised.any():
            raise ValueError(
                f"None of the {len(labels)} samples of the batch has a supervised token, so there "
                "is no loss. Is every answer empty, or cut off? conversation.show() tells."
            )
        if all_logits:
            predictions = logits[supervised]
        else:
            tokens = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            shared = shared_length(input_ids, tokens, supervised | (input_ids == self.config.image_token_id))
            shared = shared if shared >= WORTH_SHARING else 0
            read = decode(self.language_model, inputs_embeds, tokens, supervised, shared)  # [S, D]
            predictions = head(read)
        loss = F.cross_entropy(predictions.float(), targets[supervised])
        return MiniLlavaOutput(loss=loss, logits=logits)

    def encode_images(self, pixel_values: Tensor | None) -> Tensor:
        """Pictures [I, 3, S, S] -> patch features [I, N, D_v]; None -> [0, N, D_v]."""
        if pixel_values is None:
            vision = self.config.vision_config
            shape = (0, vision.num_channels, vision.image_size, vision.image_size)
            pixel_values = torch.empty(shape, device=self.device)
        return encode_patches(self.vision_tower, pixel_values, self.config.vision_feature_layer)

    def project(self, image_features: Tensor) -> Tensor:
        """Patch features [I, N, D_v] -> embeddings [I, N, D].

        Also called with I = 0. The projector then still belongs to the loss's graph and gets a
        gradient, zero, where a missing one would leave the other processes of a distributed run
        waiting for it. The original adds a dummy picture for that (llava/model/llava_arch.py).
        """
        return self.multi_modal_projector(
            image_features.to(self.multi_modal_projector.linear_1.weight.dtype)
        )

    def splice(self, input_ids: Tensor, image_embeds: Tensor) -> Tensor:
        """Token ids [B, T] and embeddings [I, N, D] -> inputs_embeds [B, T, D].

        The positions of `<image>`, in reading order over the batch, take the pictures' embeddings;
        all others look theirs up. The original inserts at a sentinel id and so makes the sequence
        longer here (prepare_inputs_labels_for_multimodal); with placeholders the length is known
        beforehand.

        Raises ValueError, naming the sample, if there are more or fewer placeholders than
        embeddings.
        """
        is_image = input_ids == self.config.image_token_id  # [B, T]
        check_placeholders(is_image.sum(dim=1).tolist(), *image_embeds.shape[:2])
        text_embeds = self.language_model.get_input_embeddings()(input_ids)  # [B, T, D]
        return text_embeds.masked_scatter(is_image[..., None], image_embeds.to(text_embeds.dtype))

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_features: Tensor | None = None,
        **generation,
    ) -> Tensor:
        """Continue each prompt: token ids [B, new], without the prompt, filled up with the pad id.

        Arguments as in `forward`, but prompts of unequal length are padded on the left.
        `generation` goes to transformers' `generate` (`max_new_tokens`, `do_sample`,
        `temperature`, `streamer`, `generation_config`, ...); the default is greedy decoding of at most
        MAX_NEW_TOKENS, ending at `</s>`. `max_length` counts the padded prompt, too, as there.

        Raises ValueError for padding on the right, for a prompt that fills the model's context and for a
        `max_length` that the prompt fills. An answer that would run out of the context is cut there; if
        the caller asked for more, with a warning.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if not attention_mask[:, -1].all():
            raise ValueError(
                "Prompts are padded on the right. Pad on the left: an answer follows its prompt."
            )
        room = self.room(int(attention_mask.sum(dim=1).max()))
        wanted = generation["max_new_tokens"] = asked_length(generation, input_ids.shape[1], room)
        if wanted > room:
            warnings.warn(
                f"The answer is limited to {room} tokens, not {wanted}: with the prompt that fills "
                f"the model's {self.config.text_config.max_position_embeddings} positions.",
                stacklevel=2,
            )
            generation["max_new_tokens"] = room

        if image_features is None:
            image_features = self.encode_images(pixel_values)
        inputs_embeds = self.splice(input_ids, self.project(image_features))
        return self.language_model.generate(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, **generation
        )

    def room(self, prompt_length: int) -> int:
        """Positions left for an answer after a prompt; ValueError if there are none."""
        limit = self.config.text_config.max_position_embeddings
        if prompt_length >= limit:
            raise ValueError(
                f"The prompt is {prompt_length} tokens long (a picture takes "
                f"{self.num_image_tokens}), but the model has {limit} positions for prompt and "
                "answer together: shorten the question."
            )
        return limit - prompt_length

    def prepare(
        self, conversations: list[list[dict]], images: list[list[Picture]], template: str = "v1"
    ) -> dict[str, Tensor]:
        """Conversations and their pictures -> what `generate` takes, padded on the left.

        `images[b]` lists the pictures of `conversations[b]`, in the order of their `<image>`; it
        may be empty. Pictures are made square as the model's last stage did (`aspect`). Raises ValueError
        for a conversation with more or fewer turns with `<image>` than pictures.
        """
        rows = []
        for number, (turns, pictures) in enumerate(zip(conversations, images, strict=True)):
            encoded = encode(turns, self.tokenizer, template, bool(pictures), self.num_image_tokens)
            if encoded.num_images != len(pictures):
                raise ValueError(
                    f"Conversation {number} has {encoded.num_images} turns with {IMAGE_TOKEN}, but "
                    f"{len(pictures)} pictures came: each takes a turn of its own."
                )
            rows.append(encoded.input_ids)
        length = max(map(len, rows))
        input_ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(rows):
            input_ids[row, length - len(ids) :] = torch.tensor(ids)
            attention_mask[row, length - len(ids) :] = 1
        size = self.config.vision_config.image_size
        shown = [picture for pictures in images for picture in pictures]
        distinct = {_identity(picture): picture for picture in shown}
        pixels = {key: preprocess(open_image(one), size, self.aspect) for key, one in distinct.items()}
        stacked = torch.stack([pixels[_identity(picture)] for picture in shown]) if shown else None
        return {
            "input_ids": input_ids.to(self.device),
            "attention_mask": attention_mask.to(self.device),
            "pixel_values": None if stacked is None else stacked.to(self.device),
        }

    @torch.no_grad()
    def read_beginning(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_features: Tensor | None = None,
        places: list[int] | None = None,
    ) -> dict:
        """Read what prompts have in common once, not once for each: arguments for `generate`, with a cache.

        Prompts [B, T] are padded on the left. Where the common beginning has their pictures in it, it is
        read once for each of `places`, which are equal for prompts about the same picture.
        """
        length = shared_length(input_ids, attention_mask)
        ids, mask = (pad_behind(x, attention_mask, length) for x in (input_ids, attention_mask))
        features = self.encode_images(None) if image_features is None else image_features
        beginning, read, rows = ids[:1, :length], [], [0] * len(ids)
        if (beginning == self.config.image_token_id).any():
            numbers = {place: number for number, place in enumerate(dict.fromkeys(places))}
            read, rows = [places.index(place) for place in numbers], [numbers[place] for place in places]
            beginning = beginning.expand(len(read), -1)
        cache = self.language_model.model(
            inputs_embeds=self.splice(beginning, self.project(features[read])), use_cache=True
        ).past_key_values
        cache.batch_select_indices(torch.tensor(rows, device=ids.device))
        return {"input_ids": ids, "attention_mask": mask, "past_key_values": cache}

    def answer_batch(
        self, images: list[Picture | None], questions: list[str], **generation
    ) -> list[str]:
        """Answer `questions[b]` about `images[b]` in one batch; None is a question without picture.

        The answers are those that `answer` gives one by one. Raises ValueError for lists of unequal
        length and for an empty question.
        """
        if len(images) != len(questions):
            raise ValueError(
                f"{len(images)} pictures but {len(questions)} questions: give one for each."
            )
        check_questions(questions)
        if not questions:
            return []
        conversations = []
        for image, question in zip(images, questions, strict=True):
            if image is not None and IMAGE_TOKEN not in question:
                question = f"{IMAGE_TOKEN}\n{question}"
            conversations.append(
                [{"from": "human", "value": question}, {"from": "gpt", "value": None}]
            )
        batch = self.prepare(conversations, [[] if image is None else [image] for image in images])
        pixels, places = batch.pop("pixel_values"), None
        if pixels is not None:  # a picture asked about twice is looked at once
            keys = [_identity(image) for image in images if image is not None]
            numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
            places = [numbers[key] for key in keys]
            distinct = self.encode_images(pixels[[keys.index(key) for key in numbers]])
            batch["image_features"] = distinct[places]
        # Beams and several replies multiply the prompts inside `generate`, but not a cache handed to it.
        multiplied = {"num_beams", "num_return_sequences", "generation_config"} & generation.keys()
        if len(questions) > 1 and not multiplied and not watched(self.language_model):
            batch |= self.read_beginning(**batch, places=places)
        answers = self.generate(**batch, **generation)
        return [
            text.strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        ]

    def answer(self, image: Picture | None, question: str, **generation) -> str:
        """Answer one question about one picture. Greedy by default; `generation` as in `generate`.

        Raises ValueError for an empty question or one too long for the model.
        """
        return self.answer_batch([image], [question], **generation)[0]


def _identity(picture: Picture) -> str | bytes | Path | int:
    """Equal for one picture given twice: its file or bytes, or the object itself."""
    return picture if isinstance(picture, (str, bytes, Path)) else id(picture)


def asked_length(generation: dict, prompt_length: int, room: int) -> int:
    """How many new tokens a caller of `generate` asks for at most, in one of three ways or in none."""
    config = generation.get("generation_config") or GenerationConfig()
    asked = generation.get("max_new_tokens", config.max_new_tokens)
    both = generation.pop("max_length", config.max_length)
    if asked is None and both is not None and (asked := both - prompt_length) < 1:
        raise ValueError(f"max_length {both} counts the prompt, too, which is {prompt_length} tokens long.")
    return min(MAX_NEW_TOKENS, room) if asked is None else asked


def check_questions(questions: list[str]) -> None:
    """Does every question ask something?"""
    for index, question in enumerate(questions):
        if not question.strip():
            raise ValueError(
                f"Question {index} is empty: ask something, e.g. 'What is in the picture?'."
            )


def check_placeholders(counts: list[int], pictures: int, patches: int) -> None:
    """Do `counts[b]` image positions per sample fit `pictures` of `patches` embeddings each?"""
    for sample, count in enumerate(counts):
        if count % patches:
            raise ValueError(
                f"Sample {sample} of the batch has {count} image positions, but a picture brings "
                f"{patches} features: encode it with this model's num_image_tokens, and let "
                "max_length cut no picture in half."
            )
    if sum(counts) != pictures * patches:
        raise ValueError(
            f"The batch has {sum(counts)} image positions but {pictures * patches} image features: "
            f"its samples have room for {[n // patches for n in counts]} pictures, in this order, "
            f"and {pictures} came."
        )


def check_config(config: LlavaConfig) -> None:
    """Stop at a config that asks for what this model does not do, rather than do something else."""
    found_and_wanted = {
        "vision_config.model_type": (config.vision_config.model_type, "clip_vision_model"),
        "text_config.model_type": (config.text_config.model_type, "llama"),
        "vision_feature_select_strategy": (config.vision_feature_select_strategy, "default"),
        "type(vision_feature_layer)": (type(config.vision_feature_layer).__name__, "int"),
        "projector_hidden_act": (config.projector_hidden_act, "gelu"),
        "multimodal_projector_bias": (config.multimodal_projector_bias, True),
    }
    wrong = [f"{k} is {a!r}, not {b!r}" for k, (a, b) in found_and_wanted.items() if a != b]
    if wrong:
        raise ValueError(f"Not a LLaVA-1.5 config: {'; '.join(wrong)}.")
    if config.image_token_id >= config.text_config.vocab_size:
        raise ValueError(
            f"image_token_index is {config.image_token_id}, but the language model knows "
            f"{config.text_config.vocab_size} tokens: let checkpoints.from_bases add it."
        )
