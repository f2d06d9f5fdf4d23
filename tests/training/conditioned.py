"""Parts of small tokenizers with a condition."""

SMALL = ("width=16", "depth=1", "heads=2")


PARTS = (
    "encoder=titok_s", "encoder.latents=4", "encoder.patch_size=8", *(f"encoder.{size}" for size in SMALL),
    "decoder=ta_titok", "decoder.start=xavier", "decoder.patch_size=8", *(f"decoder.{size}" for size in SMALL),
    "decoder.context_dim=8", "decoder.context_length=4",
)  # fmt: skip
