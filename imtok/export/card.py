"""The model card: what a tokenizer is, how good, by which protocol, and how to use it; nothing of the machine."""

import json
from typing import Any

from huggingface_hub import ModelCardData

from imtok.export.codebook import layout
from imtok.measures.report.origin import describe_data
from imtok.measures.report.results import counted
from imtok.measures.report.terms import term
from imtok.measures.report.titles import number
from imtok.text import markdown, markdown_table
from imtok.tokenizer import Tokenizer


def card(
    tokenizer: Tokenizer, size: int | None, report: dict[str, Any] | None, licence: str | None, files: dict[str, str]
) -> str:
    """``README.md`` of a model repository.

    Args:
        tokenizer: The tokenizer.
        size: Side of its images, in pixels; None where it is not known.
        report: What ``imtok eval`` measured; None = there are no numbers.
        licence: As the hub spells it: "apache-2.0", "mit", ...
        files: What else is in the folder: what each is, by name.
    """
    front = ModelCardData(
        license=licence, library_name="imtok", tags=["imtok", "image-tokenizer", "vector-quantization"]
    )
    config = {name: value for name, value in (tokenizer.config or {}).items() if name != "weights_sha256"}
    parts = [
        f"---\n{front.to_yaml()}\n---",
        "# Image tokenizer",
        _table(["what", ""], _facts(tokenizer, size)),
        "## Quality",
        _quality(report),
        "## Use",
        _use(tokenizer, size or 256),
        "## Files",
        _table(["file", "what"], [[name, what] for name, what in files.items()]),
        "## How ids stand for latents",
        "\n".join(
            f"* {name.replace('_', ' ')}: {markdown(str(value))}" for name, value in layout(tokenizer.quantizer).items()
        ),
        "## Configuration",
        f"```json\n{json.dumps(without_folders(config), indent=2)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


_USE = """```python
from imtok.tokenizer import Tokenizer

tokenizer = Tokenizer.load("hf:NAMESPACE/NAME")   # or this folder
tokens = tokenizer.encode(images)                 # images b 3 h w in [-1, 1], RGB -> ids b t g
images = tokenizer.decode(tokens, ({size}, {size}))   # back to [-1, 1]
```"""


_TOLD_USE = """```python
from imtok.tokenizer import Tokenizer

tokenizer = Tokenizer.load("hf:NAMESPACE/NAME")   # or this folder
condition = tokenizer.condition_for(number, captions, labels)   # what is known of each image; this one is told {gives}
tokens = tokenizer.encode(images, condition=condition)   # images b 3 h w in [-1, 1], RGB -> ids b t g
images = tokenizer.decode(tokens, ({size}, {size}), condition)   # back to [-1, 1]
```"""


def _use(tokenizer: Tokenizer, size: int) -> str:
    if tokenizer.condition is None:
        return _USE.format(size=size)
    return _TOLD_USE.format(size=size, gives=" and ".join(tokenizer.condition.gives))


def _facts(tokenizer: Tokenizer, size: int | None) -> list[list[str]]:
    quantizer = tokenizer.quantizer
    rows = [
        ["encoder, decoder", f"{type(tokenizer.encoder).__name__}, {type(tokenizer.decoder).__name__}"],
        ["quantizer", type(quantizer).__name__],
        ["ids of each slot", " + ".join(f"{count:,}" for count in quantizer.vocab_sizes) or "none: continuous"],
        ["width of a latent", str(quantizer.dim)],
        ["bits per token", f"{quantizer.bits_per_token:g}"],
        ["parameters", f"{sum(parameter.numel() for parameter in tokenizer.parameters()):,}"],
        ["pixels", "RGB, float in [-1, 1]"],
    ]
    if tokenizer.condition is not None:
        kinds, by = ", ".join(tokenizer.condition.gives), type(tokenizer.condition).__name__
        rows.append(["told of each image", f"{kinds}, by {by}"])
    if size is not None:
        tokens = tokenizer.num_tokens((size, size))
        rows.insert(0, ["image size", f"{size}x{size}"])
        rows.insert(1, ["tokens per image", f"{tokens} ({tokens * quantizer.bits_per_token:,.0f} bits)"])
    return rows


def _quality(report: dict[str, Any] | None) -> str:
    if report is None:
        return "Not measured. `imtok eval` measures, and says by which protocol."
    protocol, ids = report.get("protocol", {}), report.get("protocol_ids", {})
    rows = [
        [
            term(name, report.get("terms")).heading,
            number(value),
            report["conventions"].get(name, ""),
            ids.get(name, {}).get("id", ""),
        ]
        for name, value in report["metrics"].items()
    ]
    height, width = report["image_size"]
    preset = protocol.get("preset", "none")
    changed = "".join(f", {change}" for change in protocol.get("overrides", ()))
    data = {name: report.get("data", {}).get(name) for name in ("kind", "split")}
    kind = f" ({describe_data(data)})" if data["kind"] else ""
    words = (
        f"{counted(report['images'])} of {width}x{height} pixels{kind}; protocol {preset}{changed}. "
        f"Weights: {protocol.get('weights', 'as saved')}. Numbers of different protocol ids must not be compared."
    )
    return f"{markdown(words)}\n\n{_table(['metric', 'value', 'how', 'protocol id'], rows)}"


def without_folders(value: Any) -> Any:
    r"""The same plain values, with no more of any path than the name of its file.

    Example:
        >>> without_folders({"weights": "/home/me/vae.pth", "sizes": [1, "C:\\\\me\\\\x.pth"], "name": "vae"})
        {'weights': 'vae.pth', 'sizes': [1, 'x.pth'], 'name': 'vae'}
    """
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    return value.replace("\\", "/").rstrip("/").rpartition("/")[2] if isinstance(value, str) else value


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(markdown_table(head, rows))
