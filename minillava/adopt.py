"""A LLaVA of transformers, seen as a MiniLlava: the same weights, by other names, without a copy."""

import torch
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from minillava.bases import attach
from minillava.model import MiniLlava


def adopt(
    model: MiniLlava | LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase | None = None
) -> MiniLlava:
    """What looks at a MiniLlava then works on llava-hf models too, whatever holds their weights.

    The parts are shared, not copied: a hook or a change on one side is one on the other. A MiniLlava comes
    back as it is. Answers are greedy, as MiniLlava's are.

    Args:
        tokenizer: the llava-hf model's, with `<image>` as a token (`processor.tokenizer`).

    Raises:
        ValueError: a transformers model without its tokenizer, or one that is no LLaVA-1.5.
    """
    if isinstance(model, MiniLlava):
        return model
    if tokenizer is None:
        raise ValueError(
            f"{type(model).__name__} has no tokenizer of its own; pass tokenizer=processor.tokenizer."
        )
    with torch.device("meta"), no_init_weights():
        adopted = MiniLlava(model.config)
    adopted.vision_tower = model.model.vision_tower
    adopted.multi_modal_projector = model.model.multi_modal_projector
    adopted.language_model.model = model.model.language_model
    adopted.language_model.lm_head = model.lm_head
    return attach(adopted, tokenizer).train(model.training)
