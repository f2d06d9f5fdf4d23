"""What a saved tokenizer is, for the terminal."""

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from imtok.decoders.inside import kind_of
from imtok.tokenizer import Tokenizer


def describe(tokenizer: Tokenizer, folder: Path) -> Table:
    """Parts, vocabulary, tokens, bits and parameters of a tokenizer.

    Args:
        tokenizer: A loaded one.
        folder: Where it was loaded from.
    """
    rows = Table(title=escape(str(folder)), title_justify="left", show_header=False)
    parts = {"encoder": tokenizer.encoder, "quantizer": tokenizer.quantizer, "decoder": tokenizer.decoder}
    for name, part in parts.items():
        count = sum(parameter.numel() for parameter in part.parameters())
        rows.add_row(name, f"{kind_of(part)}, {count:,} parameters")
    if tokenizer.space is not None:
        count = sum(parameter.numel() for parameter in tokenizer.space.parameters())
        rows.add_row("space", f"{type(tokenizer.space).__name__}, frozen, {count:,} parameters")
    if tokenizer.condition is not None:
        kinds, by = ", ".join(tokenizer.condition.gives), type(tokenizer.condition).__name__
        rows.add_row("told of each image", f"{kinds} ({by})")
    quantizer = tokenizer.quantizer
    rows.add_row("vocabulary", " + ".join(f"{size:,}" for size in quantizer.vocab_sizes))
    rows.add_row("slots per token", str(len(quantizer.vocab_sizes)))
    rows.add_row("bits per token", f"{quantizer.bits_per_token:.3f}")
    rows.add_row("width of latents", str(quantizer.dim))
    if tokenizer.image_size is not None:
        side = tokenizer.image_size
        tokens = tokenizer.num_tokens((side, side))
        bits = tokens * quantizer.bits_per_token
        rows.add_row("trained on", f"{side}x{side} pixels")
        rows.add_row("tokens per image", str(tokens))
        rows.add_row("bits per image", f"{bits:,.1f} ({bits / side**2:.4f} per pixel)")
    return rows
