"""Text towers of two blocks with random weights, each in a folder as Hugging Face lays it out."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "red", "fox", "blue", "circle", "two", "cats", "in", "the", "snow"]
SMALL = {"vocab_size": len(WORDS), "num_hidden_layers": 2, "num_attention_heads": 2}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
KINDS = ("clip", "siglip", "siglip2", "t5")


def config_of(kind, width):
    if kind == "t5":
        sizes = {"d_model": width, "d_kv": width // 2, "d_ff": 2 * width, "num_layers": 2, "num_heads": 2}
        return transformers.T5Config(vocab_size=len(WORDS), **sizes)
    text = {**SMALL, **ENDS, "hidden_size": width, "intermediate_size": 2 * width, "max_position_embeddings": 12}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    if kind == "clip":
        return transformers.CLIPConfig(text_config=text, vision_config=vision | {"image_size": 8, "patch_size": 4})
    if kind == "siglip":
        return transformers.SiglipConfig(text_config=text, vision_config=vision | {"image_size": 8, "patch_size": 4})
    return transformers.Siglip2Config(text_config=text, vision_config=vision | {"num_patches": 4, "patch_size": 4})


def write_tower(folder: Path, kind: str, width: int = 16, seed: int = 0, shard: str = "1GB") -> Path:
    """A whole net of a kind, of which the text tower is a part, and a tokenizer of a few words."""
    config = config_of(kind, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        names = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}
        net = getattr(transformers, names.get(kind, "T5ForConditionalGeneration"))(config)
        with torch.no_grad():
            for value in net.parameters():
                value.normal_(std=0.3)
    bars = transformers.utils.logging
    bars.disable_progress_bar()
    net.save_pretrained(folder, max_shard_size=shard)
    bars.enable_progress_bar()
    cut = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    cut.pre_tokenizer = pre_tokenizers.Whitespace()
    start = "" if kind == "t5" else "<s> "
    cut.post_processor = processors.TemplateProcessing(
        single=f"{start}$A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=cut, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder
