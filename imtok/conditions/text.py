"""Frozen text towers in Hugging Face's layout: CLIP's, SigLIP's and T5's encoder, each by its hidden states."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from typing_extensions import override

from imtok.conditions.cache import StoredFeatures
from imtok.conditions.named import NamedText, Told
from imtok.errors import InputError
from imtok.files import canonical_json, read_json, sha256
from imtok.locate import fetch_folder

Kind = Literal["clip", "siglip", "t5"]
Precision = Literal["fp32", "bf16"]

CONFIG, CUTTER, CUTTER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class _Layout:
    """How a kind of tower is read.

    Attributes:
        classes: The class of ``transformers`` for each ``model_type`` that a folder may state.
        masked: Whether the tower does not look at the places after the last token. SigLIP's does: it was trained so.
    """

    classes: dict[str, str]
    masked: bool


_LAYOUTS: dict[str, _Layout] = {
    "clip": _Layout({"clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel"}, masked=True),
    "siglip": _Layout(
        {
            "siglip": "SiglipTextModel",
            "siglip_text_model": "SiglipTextModel",
            "siglip2": "Siglip2TextModel",
            "siglip2_text_model": "Siglip2TextModel",
        },
        masked=False,
    ),
    "t5": _Layout({"t5": "T5EncoderModel"}, masked=True),
}


class TextTower(NamedText):
    """The last hidden state of a tower for each token of a caption, as ``transformers`` computes it.

    A folder in Hugging Face's layout holds the tower: ``config.json``, ``tokenizer.json`` and weights as safetensors,
    in one file or in several. Its hash covers all of these. Whatever else the folder holds is not read: of CLIP and
    SigLIP the image tower, of T5 the decoder. A caption is cut or padded to ``length`` tokens. Places after its last
    token are zero and say nothing, except SigLIP's, whose tower was trained to look at them.

    Args:
        kind: "clip" (arXiv 2103.00020), "siglip" (SigLIP and SigLIP2, arXiv 2502.14786) or "t5" (arXiv 2210.11416).
        dim: Width of the features.
        length: The most tokens of a caption, marks of its start and end included.
        repository: Where the folder is published on the hub.
        precision: That the tower computes in; the features are fp32 in any case.
        weights: As for :class:`NamedText`, a folder; so are all that follow.
        revision: See there.
        sha256: See there.
        drop: See there.
        cache: A folder of features that ``imtok pack`` wrote; None = the tower reads every caption. The tower is read
            when a caption is not in it. The path is stored nowhere.

    Raises:
        ValueError: If an argument has no such choice, or a number is out of range.
    """

    file = CONFIG

    def __init__(
        self,
        kind: Kind,
        dim: int,
        length: int,
        repository: str,
        precision: Precision = "fp32",
        weights: str | None = None,
        revision: str | None = None,
        sha256: str | None = None,
        drop: float = 0.0,
        cache: str | None = None,
    ) -> None:
        super().__init__(weights, revision, sha256, drop)
        for name, given, choices in (("kind", kind, get_args(Kind)), ("precision", precision, get_args(Precision))):
            if given not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {given!r}")
        if min(dim, length) < 1:
            raise ValueError(f"dim and length must be positive, got {dim} and {length}")
        self.kind, self.precision, self.repository = kind, precision, repository
        self.text_dim, self.length = dim, length
        self.text_length = length
        self.cache = cache
        self._cached = _Cached()

    @override
    def local(self, path: Path) -> Path:
        if path.is_dir():
            return path
        raise InputError(f"condition.weights={self.weights} is not a folder; {self.remedy()}")

    @override
    def fetch(self, name: str) -> Path:
        return fetch_folder(name, ["*.json", "*.safetensors"])

    @property
    @override
    def download(self) -> str:
        return '--include "*.json" "*.safetensors"'

    @override
    def prepare(self) -> None:
        if self.stored_features is None:
            super().prepare()

    @property
    @override
    def stored(self) -> dict[str, Any]:
        return {**super().stored, "cache": None}

    @property
    def about(self) -> dict[str, Any]:
        """What decides the features, as the folder of a cache says it."""
        sizes = {"kind": self.kind, "dim": self.text_dim, "length": self.length, "precision": self.precision}
        return {"repository": self.repository, "tower": self.sha256, **sizes}

    @property
    def stored_features(self) -> StoredFeatures | None:
        """The features of the cache, which is opened and verified when it is first asked for.

        Raises:
            InputError: If it cannot be read, or is of another tower.
        """
        if self.cache is not None and self._cached.features is None:
            features = StoredFeatures(Path(self.cache).expanduser())
            digest = str(features.about["tower"])
            if self.sha256 is not None and not digest.startswith(self.sha256):
                raise InputError(
                    f"condition.cache={self.cache} is of another text tower: its sha256 must begin with "
                    f"{self.sha256[:16]}, got {digest[:16]}; pack the captions again"
                )
            wanted = self.about | {"tower": digest}
            other = next((name for name, value in wanted.items() if features.about.get(name) != value), None)
            if other is not None:
                raise InputError(
                    f"condition.cache={self.cache} was made with condition.{other}={features.about.get(other)}, not "
                    f"{wanted[other]}; pack the captions again"
                )
            self.sha256, self._cached.features = digest, features
        return self._cached.features

    @override
    def told(self, captions: Sequence[str], device: torch.device) -> Told:
        stored = self.stored_features
        if stored is None:
            return super().told(captions, device)
        text = torch.zeros(len(captions), self.length, self.text_dim or 0)
        mask = torch.zeros(text.shape[:2], dtype=torch.bool)
        unknown = list[int]()
        for row, caption in enumerate(captions):
            rows = stored.find(caption) if caption.strip() else None
            if rows is not None:
                text[row, : len(rows)], mask[row, : len(rows)] = rows, True
            elif caption.strip():
                unknown.append(row)
        text, mask = text.to(device), mask.to(device)
        if unknown:
            made = super().told([captions[row] for row in unknown], device)
            text[unknown] = made.text
            mask[unknown] = True if made.mask is None else made.mask
        return Told(text, mask)

    def rows(self, captions: list[str]) -> list[Float[Tensor, "_ c"]]:
        """The rows of each caption that say something, as a cache holds them."""
        made = super().told(captions, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        if made.mask is None:
            return list(made.text)
        return [text[mask] for text, mask in zip(made.text, made.mask, strict=True)]

    @override
    def read(self, path: Path) -> nn.Module:
        folder = path if path.is_dir() else path.parent  # in the cache of the hub it is config.json that is found
        library = _transformers()
        digest = self._digest(folder)
        if self.sha256 is not None and not digest.startswith(self.sha256):
            raise InputError(
                f"{folder} is not the expected text tower: its sha256 must begin with {self.sha256[:16]}, got "
                f"{digest[:16]}; get it again, or give condition.sha256=null to take it as it is"
            )
        name = self._class(folder)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        local: dict[str, Any] = {"local_files_only": True}
        with _quiet(library):
            try:
                net, about = getattr(library, name).from_pretrained(
                    folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **local
                )
                cut = library.AutoTokenizer.from_pretrained(folder, **local)
            except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"condition: the text tower in {folder} cannot be read ({reason})") from None
        if about["missing_keys"]:
            missing = sorted(about["missing_keys"])
            raise InputError(f"condition: {folder} lacks {len(missing)} tensors of {name}, such as {missing[0]}")
        if cut.pad_token_id is None:
            raise InputError(f"condition: the tokenizer of {folder} has no token to pad captions with (pad_token)")
        self.sha256 = digest
        return _Tower(net, cut)

    @override
    def features(self, net: Any, captions: Sequence[str], device: torch.device) -> Told:
        if not captions:
            return Told(torch.zeros(0, self.length, self.text_dim or 0, device=device))
        cut = net.cut(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(device)
        seen = cut["attention_mask"] if _LAYOUTS[self.kind].masked else None
        states = net.tower(input_ids=cut["input_ids"], attention_mask=seen).last_hidden_state
        if seen is None:
            return Told(states.float())
        mask = seen.bool()
        return Told(states.float().masked_fill(~mask[..., None], 0.0), mask)

    def _digest(self, folder: Path) -> str:
        """Of everything in the folder that decides the features."""
        absent = [name for name in (CONFIG, CUTTER) if not (folder / name).is_file()]
        names = [CONFIG, CUTTER, *([CUTTER_CONFIG] if (folder / CUTTER_CONFIG).is_file() else [])]
        if (folder / WEIGHTS).is_file():
            names.append(WEIGHTS)
        elif (folder / INDEX).is_file():
            parts = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
            names += [INDEX, *parts]
            absent += [name for name in parts if not (folder / name).is_file()]
        else:
            absent.append(WEIGHTS)
        if absent:
            raise InputError(f"condition: {folder} has no {absent[0]}; {self.remedy()}")
        return hashlib.sha256(canonical_json({name: sha256(folder / name) for name in names}).encode()).hexdigest()

    def _class(self, folder: Path) -> str:
        """The class of the tower in the folder, which is of the kind and of the sizes that the condition says."""
        about = read_json(folder / CONFIG)
        found, classes = about.get("model_type"), _LAYOUTS[self.kind].classes
        if found not in classes:
            raise InputError(
                f"condition.kind={self.kind}: {folder} holds a net of the type {found}, not {' or '.join(classes)}"
            )
        text = {**about, **about.get("text_config", {})}
        width = text.get("d_model") or text.get("hidden_size")
        most = text.get("max_position_embeddings") if self.kind != "t5" else None
        if width is not None and width != self.text_dim:
            raise InputError(
                f"condition.dim must be {width}, the width of the text tower in {folder}, got {self.text_dim}"
            )
        if most is not None and self.length > most:
            raise InputError(
                f"condition.length must be at most {most}, as the tower in {folder} has it, got {self.length}"
            )
        return classes[found]


class _Cached:
    """Stored features once they have been opened. Copies of the condition share them."""

    def __init__(self) -> None:
        self.features: StoredFeatures | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Cached":
        return self


class _Tower(nn.Module):
    """A tower and what cuts captions into its tokens."""

    def __init__(self, tower: nn.Module, cut: Any) -> None:
        super().__init__()
        self.tower, self.cut = tower, cut


def _transformers() -> Any:
    if find_spec("transformers") is None:
        raise InputError(
            "condition: transformers is missing, which has the text towers; pip install transformers (imtok's extra "
            "`text`), or give condition=words"
        )
    return import_module("transformers")


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Let transformers report neither the tensors of other towers nor its progress."""
    logs = library.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
