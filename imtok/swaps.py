"""Parts that a command line takes in place of those that a recipe and its size were written for."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from imtok.folders import config_folder
from imtok.overrides import typed_keys
from imtok.training.told_sizes import named_class

PARTS = ("encoder", "quantizer", "regularizer", "decoder", "space", "condition", "objective")
_Plain = dict[str, Any]


def fit_parts(config: DictConfig, command: str, overrides: Sequence[str]) -> list[str]:
    """Take back what a recipe and its size set of parts that the command line does not take.

    A recipe and its size change arguments of their own parts. ``experiment=titok_bl64 size=tiny quantizer=fsq`` takes
    another quantizer, to which ``codebook_size`` does not belong. A part of another class is therefore what its own
    file says, at the size that ``configs/size/classes`` has for its class, with the keys that the command line sets.
    A part of the same class keeps what the recipe and its size say.

    Args:
        config: As Hydra composed it, changed in place.
        command: Such as "train".
        overrides: Words of the command line, without sweeps.

    Returns:
        A line for each part from which keys were taken.
    """
    keys = {word: word.lstrip("+").partition("=")[0] for word in overrides}
    chosen = [word for word, key in keys.items() if key in PARTS and "=" in word]
    recipe = [word for word, key in keys.items() if key in ("experiment", "size")]
    if command != "train" or not chosen or not recipe:
        return []
    found = [word for word, key in keys.items() if key == "hydra.searchpath"]
    size = next((word.partition("=")[2] for word in recipe if keys[word] == "size"), "full")
    fit = _Fit(typed_keys(overrides), _sizes(size))
    running = GlobalHydra.instance().is_initialized()  # in a command that Hydra runs
    with nullcontext() if running else initialize_config_dir(str(config_folder()), version_base="1.3"):
        written, alone = (_plain(compose(command, [*found, *words])) for words in (recipe, chosen))
    composed = _plain(config)
    for section in dict.fromkeys(keys[word] for word in chosen):
        made = fit.part(section, composed.get(section), written.get(section), alone.get(section))
        OmegaConf.update(config, section, made, merge=False, force_add=True)
    config.freeze = fit.inside("freeze", list(config.freeze))
    if parts := OmegaConf.select(config, "init_from.parts"):
        config.init_from.parts = fit.inside("init_from", list(parts))
    if "quantizer" in fit.other:
        _forget_terms(config, fit.typed)
        _forget_span(config, "channels", fit.typed)
    if "encoder" in fit.other:
        _forget_span(config, "tokens", fit.typed)
    lines = [*fit.lines, *_forget_layers(config, fit)]
    if config.get("condition") and "condition" not in fit.typed and {"encoder", "decoder"} <= {*fit.other}:
        lines += _forget_condition(config)
    return lines


def _forget_terms(config: DictConfig, typed: set[str]) -> None:
    """Take back the ramps of terms of a quantizer that is not there."""
    ramps, alignments = (OmegaConf.select(config, f"objective.{name}") for name in ("ramps", "alignments"))
    if ramps and "objective.ramps" not in typed:
        config.objective.ramps = {name: ramp for name, ramp in ramps.items() if name in (alignments or {})} or None


def _forget_span(config: DictConfig, span: str, typed: set[str]) -> None:
    """Let alignments read all latents: a quantizer decides what channels are, and an encoder what tokens are."""
    for name, alignment in (OmegaConf.select(config, "objective.alignments") or {}).items():
        read = alignment and alignment.get("source") in ("encoder", "quantizer") and alignment.get(span)
        if read and f"objective.alignments.{name}.{span}" not in typed:
            alignment[span] = None


def _forget_layers(config: DictConfig, fit: "_Fit") -> list[str]:
    """Leave out alignments that look into a part that is not there, and say so."""
    alignments, lines = OmegaConf.select(config, "objective.alignments") or {}, dict[str, str]()
    for name, alignment in alignments.items():
        key, seen = f"objective.alignments.{name}", [str((alignment or {}).get(at)) for at in ("source", "target")]
        gone = [layer for layer in seen if any(layer.startswith(f"{path}.") for path in fit.other)]
        if gone and not any(f"{one}.".startswith(f"{key}.") for one in fit.typed):
            lines[name] = f"{key} is left out, since it looks at {gone[0]}, a layer of another class"
    if lines:
        kept = {name: alignment for name, alignment in alignments.items() if name not in lines}
        config.objective.alignments = kept or None
    return list(lines.values())


def _forget_condition(config: DictConfig) -> list[str]:
    """Leave out the recipe's condition if neither encoder nor decoder reads one, and say so."""
    if any(getattr(named_class(config[part]), "takes", True) for part in ("encoder", "decoder")):
        return []
    OmegaConf.update(config, "condition", {}, merge=False)
    return ["condition is left out, since neither encoder nor decoder reads it"]


class _Fit:
    """Goes through a section, part by part.

    Args:
        typed: Keys that the command line sets itself.
        sizes: Arguments of classes at the size that is asked for.
    """

    def __init__(self, typed: set[str], sizes: dict[str, _Plain]) -> None:
        self.typed, self.sizes = typed, sizes
        self.other, self.lines = list[str](), list[str]()

    def part(self, path: str, composed: Any, written: Any, alone: Any) -> Any:
        """What stands at a path.

        Args:
            path: Key of the config.
            composed: What Hydra composed there of everything.
            written: Of recipe and size alone, for whose class their keys are.
            alone: Of the options alone that the command line takes.
        """
        if not isinstance(composed, dict) or f"{path}._target_" in self.typed:
            return composed
        written, alone = (one if isinstance(one, dict) else {} for one in (written, alone))
        if "_target_" not in composed and "_target_" not in written:  # parts by name, or settings
            return self._parts(path, composed, written, alone)
        if composed.get("_target_") == written.get("_target_"):
            return self._parts(path, composed, written, alone)
        self.other.append(path)
        made = self._sized(alone)
        for key in sorted(self.typed):
            if key.startswith(f"{path}."):
                _copy(composed, made, key.removeprefix(f"{path}.").split("."))
        left = sorted(composed.keys() - made.keys() - {"_target_"})
        if left:
            names = " and ".join(filter(None, [", ".join(left[:-1]), left[-1]]))
            self.lines.append(
                f"{path}: {names} of the recipe, or of its size, belong to another class and are left out"
            )
        return made or None

    def inside(self, key: str, names: list[str]) -> list[str]:
        """What is left of the parts that a recipe names at a key: nothing inside parts that it does not have."""
        if any(typed.split(".")[0] == key for typed in self.typed):
            return names
        return [name for name in names if not any(name.startswith(f"{path}.") for path in self.other)]

    def _parts(self, path: str, composed: _Plain, written: _Plain, alone: _Plain) -> _Plain:
        made = {key: self.part(f"{path}.{key}", one, written.get(key), alone.get(key)) for key, one in composed.items()}
        return {key: one for key, one in made.items() if one is not None or composed[key] is None}

    def _sized(self, part: Any) -> Any:
        """A part, and those in it, at the size that their classes have."""
        if not isinstance(part, dict):
            return part
        made = {key: self._sized(one) for key, one in part.items()}
        return {**made, **self.sizes.get(str(part.get("_target_")), {})}


def _copy(source: Any, target: _Plain, names: list[str]) -> None:
    """Copy what stands at a path of keys, if there is something."""
    for name in names[:-1]:
        if not isinstance(source, dict) or name not in source:
            return
        source, target = source[name], target.setdefault(name, {})
        if not isinstance(target, dict):
            return
    if isinstance(source, dict) and names[-1] in source:
        target[names[-1]] = source[names[-1]]


@cache
def _sizes(size: str) -> dict[str, _Plain]:
    path = config_folder() / "size" / "classes" / f"{size}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _plain(config: DictConfig) -> _Plain:
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
