"""A small tokenizer with a condition that is noted."""

NARROW = {"patch_size": 8, "width": 16, "depth": 1, "heads": 2, "start": "xavier"}


CONFIG = {
    "encoder": {"_target_": "imtok.encoders.titok.TiTokEncoder", "latents": 4, **NARROW},
    "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 6, "codebook_size": 16},
    "decoder": {
        "_target_": "imtok.decoders.titok.TiTokPixelDecoder", "flexible": True, "context_dim": 8, "context_length": 4,
        **NARROW,
    },
    "condition": {"_target_": "imtok.conditions.words.Words", "dim": 8, "length": 4},
    "image_size": 32,
}  # fmt: skip


CAPTIONS = ["a fox", "two cats", "a red house", "a tree"]


def noted(part):
    """The conditions that a part is called with from now on."""
    conditions, forward = [], part.forward

    def note(*arguments):
        conditions.append(arguments[-1])
        return forward(*arguments)

    part.forward = note
    return conditions
