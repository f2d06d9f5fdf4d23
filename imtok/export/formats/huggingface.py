"""A data set repository of the Hugging Face Hub: parquet files and the card that says what is in them."""

import json
from pathlib import Path
from typing import Any

from typing_extensions import override

from imtok.export.formats.parquet import Parquet
from imtok.export.sequences import Sequencing
from imtok.export.store import TokenStore
from imtok.files import write_bytes


class HuggingFace(Parquet):
    """What ``datasets.load_dataset(DIR)`` reads, and ``hf upload`` takes as it is. Arguments: :class:`Parquet`.

    ``label`` is a ``ClassLabel`` with the names of the classes where there are any.
    """

    @override
    def write(self, store: TokenStore, folder: Path) -> dict[str, Any]:
        facts = super().write(store, folder)
        write_bytes(folder / "README.md", _card(store, facts).encode("utf-8", "backslashreplace"))
        return facts

    @override
    def metadata(self, store: TokenStore, sequencing: Sequencing) -> dict[str, str]:
        names, wide = store.classes, "int32" if sequencing.size <= 2**31 else "int64"
        label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
        features = {
            "key": {"dtype": "string", "_type": "Value"},
            "label": label,
            "view": {"dtype": "int32", "_type": "Value"},
            "input_ids": {"feature": {"dtype": wide, "_type": "Value"}, "_type": "Sequence"},
            "length": {"dtype": "int32", "_type": "Value"},
        }
        if store.captioned:
            features["caption"] = {"dtype": "string", "_type": "Value"}
        if store.has_several_texts:
            features["captions"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
        own = super().metadata(store, sequencing)
        return {**own, "huggingface": json.dumps({"info": {"features": features}})}


def _card(store: TokenStore, facts: dict[str, Any]) -> str:
    about, manifest = facts["sequence"], store.manifest
    height, width = manifest["image_size"]
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/train-*",
        "tags:",
        "- imtok",
        "- image-tokens",
        "---",
        "",
        "# Image tokens",
        "",
        f"{manifest['images']} images of {width}x{height} pixels, {store.views} views each (`{manifest['augment']}`), "
        f"{manifest['tokens']} tokens per view with {len(manifest['vocab_sizes'])} slots.",
        "",
        "| column | what |",
        "|---|---|",
        "| `key` | name of the image |",
        "| `label` | its class, -1 where there is none |",
        "| `view` | which crop |",
        f"| `input_ids` | {_input_ids(Sequencing.stored(about))} |",
        "| `length` | how many they are |",
        *(["| `caption` | text about the image, empty where there is none |"] if store.captioned else []),
        *(["| `captions` | all texts about the image |"] if store.has_several_texts else []),
        "",
        f"Slots: {manifest['vocab_sizes']}, as `{about['slots']}`; padding id: {about['padding']}. "
        f"Tokenizer: sha256 `{manifest['tokenizer_sha256']}`.",
    ]
    return "\n".join(lines) + "\n"


def _input_ids(sequencing: Sequencing) -> str:
    around = [f"{name} {n}" for name, n in (("begin", sequencing.begin), ("end", sequencing.end)) if n is not None]
    between = f", between {' and '.join(around)}" if around else ""
    return f"{sequencing.length} ids at most, in [{sequencing.offset}, {sequencing.top}){between}"
