"""The model card: what a tokenizer is, how good, by which protocol, and how to use it; nothing of the machine."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import EvalResult, ModelCardData

from imtok.conditions.base import Conditioner
from imtok.decoders.base import Decoder
from imtok.decoders.inside import kind_of
from imtok.encoders.base import Encoder
from imtok.errors import InputError
from imtok.files import read_json
from imtok.locate import CONFIG, WEIGHTS
from imtok.quantizers.base import Quantizer
from imtok.quantizers.layout import layout
from imtok.text import markdown, markdown_table

REPORT = "report.json"
_CHANNELS = {1: "grey", 3: "RGB", 4: "RGB and alpha"}
PICTURE = "reconstructions.png"
TASK = "image-to-image"  # what the hub calls a net that gives an image for an image
FILES = {
    CONFIG: "the configuration, with the hash of the weights",
    WEIGHTS: "the weights, with the configuration in its metadata",
    "codebook.safetensors": "a table per slot; how its rows make latents is said below",
    "encoder.pt2": "torch.export program: images to ids",
    "decoder.pt2": "torch.export program: ids to images",
    PICTURE: "the picture above",
}
_NEEDED = {"metrics", "conventions", "images", "image_size", "vocab_sizes"}


class Described(Protocol):
    """What a card says of a tokenizer."""

    encoder: Encoder
    quantizer: Quantizer
    decoder: Decoder
    condition: Conditioner | None
    config: dict[str, Any] | None

    @property
    def channels(self) -> int:
        """Of its images."""
        ...

    def parameter_count(self) -> int:
        """How many numbers it has learnt."""
        ...


def card(
    tokenizer: Described,
    front: Mapping[str, Any],
    size: int | None,
    report: dict[str, Any] | None,
    name: str | None,
    folder: Path | None,
) -> str:
    """``README.md`` of a model repository.

    Args:
        tokenizer: The tokenizer.
        front: Fields of the hub: license, tags, pipeline_tag, ...
        size: Side of its images, in pixels; None where it is not known.
        report: What ``imtok eval`` measured; None = there are no numbers.
        name: On the hub, ``org/name``; None = it is not known yet.
        folder: Where the files are that the card lists; None = none are listed.
    """
    told = {} if report is None else {"model_name": name or "image tokenizer", "eval_results": _results(report)}
    data = ModelCardData(**front, **told)
    there = [file for file in FILES if folder is not None and (folder / file).is_file()]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        "# Image tokenizer",
        _table(["what", ""], _facts(tokenizer, size)),
        *([_PICTURE] if PICTURE in there else []),
        "## Quality",
        _quality(report),
        "## Use",
        _use(tokenizer, name, known="image_size" in (tokenizer.config or {})),
        *(["## Files", _table(["file", "what"], [[file, FILES[file]] for file in there])] if there else []),
        "## How ids stand for latents",
        "\n".join(
            f"* {key.replace('_', ' ')}: {markdown(str(value))}" for key, value in layout(tokenizer.quantizer).items()
        ),
        "## Configuration",
        f"```json\n{json.dumps(without_folders(tokenizer.config or {}), indent=2)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def read_report(path: Path) -> dict[str, Any]:
    """A report of ``imtok eval``.

    Args:
        path: Its file, its folder, or the run whose own it is.

    Raises:
        InputError: If it is none.
    """
    places = [path, path / REPORT, path / "evaluation" / REPORT]
    report = read_json(next((place for place in places if place.is_file()), path))
    if not isinstance(report, dict) or not report.keys() >= _NEEDED:
        raise InputError(f"{path} is not a report of imtok eval; give report=DIR")
    return report


def mismatch(report: Mapping[str, Any], quantizer: Quantizer, fingerprint: str) -> str | None:
    """Why a report cannot be of this tokenizer; None if it can."""
    if report["vocab_sizes"] != list(quantizer.vocab_sizes):
        return f"is the report of another tokenizer (its slots have {report['vocab_sizes']} ids)"
    if report.get("tokenizer_sha256") not in (None, "", fingerprint):
        return "was measured with other weights (another step or run, or weights=raw)"
    return None


_PICTURE = (
    f"![Photographs over their reconstructions]({PICTURE})\n\n"
    "Two photographs in the public domain that come with scikit-image, scaled and cropped to the size of the "
    "tokenizer's images: above the original, below its reconstruction."
)
_LOAD = """import imtok

tokenizer = imtok.Tokenizer.from_pretrained("{name}")   # or this folder"""
_USE = """```python
{load}
ids = tokenizer.encode(tokenizer.preprocess(picture)).ids   # a PIL image, or several -> b t g
pictures = tokenizer.postprocess(tokenizer.decode(ids{size}))   # PIL images
```"""
_TOLD_USE = """```python
{load}
condition = tokenizer.condition_for(1, captions, labels)   # what is known of each image; this one is told {gives}
ids = tokenizer.encode(tokenizer.preprocess(picture), condition=condition).ids   # a PIL image -> b t g
pictures = tokenizer.postprocess(tokenizer.decode(ids{size}, condition=condition))   # PIL images
```"""


def _use(tokenizer: Described, name: str | None, known: bool) -> str:
    size = "" if known else ", (256, 256)"
    load = _LOAD.format(name=name or "NAMESPACE/NAME")
    if tokenizer.condition is None:
        return _USE.format(load=load, size=size)
    return _TOLD_USE.format(load=load, size=size, gives=" and ".join(tokenizer.condition.gives))


def _facts(tokenizer: Described, size: int | None) -> list[list[str]]:
    quantizer = tokenizer.quantizer
    rows = [
        ["encoder, decoder", f"{kind_of(tokenizer.encoder)}, {kind_of(tokenizer.decoder)}"],
        ["quantizer", type(quantizer).__name__],
        ["ids of each slot", " + ".join(f"{count:,}" for count in quantizer.vocab_sizes) or "none: continuous"],
        ["width of a latent", str(quantizer.dim)],
        ["bits per token", f"{quantizer.bits_per_token:g}"],
        ["parameters", f"{tokenizer.parameter_count():,}"],
        ["pixels", f"{_CHANNELS[tokenizer.channels]}, float in [-1, 1]"],
    ]
    if tokenizer.condition is not None:
        kinds, by = ", ".join(tokenizer.condition.gives), type(tokenizer.condition).__name__
        rows.append(["told of each image", f"{kinds}, by {by}"])
    if size is not None:
        tokens = quantizer.num_tokens(tokenizer.encoder.num_latents((size, size)))
        rows.insert(0, ["image size", f"{size}x{size}"])
        rows.insert(1, ["tokens per image", f"{tokens} ({tokens * quantizer.bits_per_token:,.0f} bits)"])
    return rows


def _quality(report: dict[str, Any] | None) -> str:
    if report is None:
        return "Not measured. `imtok eval` measures, and says by which protocol."
    protocol, ids = report.get("protocol", {}), report.get("protocol_ids", {})
    rows = [
        [_heading(name, report), f"{value:,.5g}", report["conventions"].get(name, ""), ids.get(name, {}).get("id", "")]
        for name, value in report["metrics"].items()
    ]
    height, width = report["image_size"]
    preset = protocol.get("preset", "none")
    changed = "".join(f", {change}" for change in protocol.get("overrides", ()))
    kind, split = _data(report)
    told = f" ({kind}{split and f', split {split}'})" if kind else ""
    words = (
        f"{report['images']:,} image{'s' * (report['images'] != 1)} of {width}x{height} pixels{told}; "
        f"protocol {preset}{changed}. Weights: {protocol.get('weights', 'as saved')}. "
        "Numbers of different protocol ids must not be compared."
    )
    return f"{markdown(words)}\n\n{_table(['metric', 'value', 'how', 'protocol id'], rows)}"


def _results(report: dict[str, Any]) -> list[EvalResult]:
    """The same numbers as the hub's ``model-index``; of the data only their kind and split."""
    kind, split = _data(report)
    return [
        EvalResult(
            task_type=TASK,
            task_name="Image reconstruction",
            dataset_type=kind or "unknown",
            dataset_name=f"{kind or 'unknown'}{split and f' ({split})'}",
            dataset_split=split or None,
            metric_type=name,
            metric_name=_heading(name, report),
            metric_value=value,
            metric_config=report.get("protocol_ids", {}).get(name, {}).get("id"),
        )
        for name, value in report["metrics"].items()
    ]


def _data(report: dict[str, Any]) -> tuple[str, str]:
    """Kind and split of the data, and nothing else of them: a path is nobody's business."""
    data = report.get("data", {})
    return str(data.get("kind") or ""), str(data.get("split") or "")


def _heading(name: str, report: dict[str, Any]) -> str:
    """What a report calls a number, with its unit; reports of before give only its name."""
    told = report.get("terms", {}).get(name, {})
    title, unit = told.get("title") or name, told.get("unit")
    return f"{title} ({unit})" if unit else title


def without_folders(value: Any) -> Any:
    r"""The same plain values, with no more of any path than the name of its file.

    Example:
        >>> without_folders({"weights": "/models/vae.pth", "sizes": [1, "C:\\\\me\\\\x.pth"], "name": "vae"})
        {'weights': 'vae.pth', 'sizes': [1, 'x.pth'], 'name': 'vae'}
    """
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    return value.replace("\\", "/").rstrip("/").rpartition("/")[2] if isinstance(value, str) else value


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(markdown_table(head, rows))
