"""What a mistaken word of a command line may have meant."""

import difflib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from imtok.overrides import PATHS
from imtok.plain import PATH_OF

# Other programs' words for keys of ours.
_ALIASES = {
    "learning_rate": "lr", "steps": "max_steps", "epochs": "max_steps", "max_epochs": "max_steps", "bs": "batch_size",
    "iterations": "max_steps", "batch": "batch_size", "num_workers": "workers", "gpus": "devices", "amp": "precision",
    "dtype": "precision", "wd": "weight_decay", "warmup": "warmup_steps", "output": "out", "output_dir": "out",
    "out_dir": "out", "save_dir": "out", "outdir": "out", "resume": "ckpt", "checkpoint": "ckpt", "root": "path",
    "resolution": "image_size", "img_size": "image_size", "vocab_size": "codebook_size", "num_codes": "codebook_size",
    "codebook_dim": "dim", "wandb": "logger", "metric": "metrics", "model": "tokenizer", "run": "tokenizer",
    "dataset": "data", "data_path": "path", "data_dir": "path", "folder": "path", "loss": "objective",
    "probe": "linear_probe",
}  # fmt: skip
_ACCELERATORS = {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "mps": "mps", "tpu": "tpu"}

# Keys that have other names than in earlier versions.
_MOVED = {
    f"protocol.{name}": f"protocol.extractor.{name}, or extractor.{name} with extractor=NAME"
    for name in ("weights", "sha256", "resize", "dtype")
}


def moved(key: str) -> str:
    """What a key of earlier versions is called now; begins with "; "."""
    return f"; it is now {_MOVED[key]}" if key in _MOVED else ""


class Hints:
    """Suggestions for one command.

    Args:
        command: Such as "train".
        folder: Of the YAML files: a folder per group, a file per option.
    """

    def __init__(self, command: str, folder: Path) -> None:
        self._command = command
        self._folder = folder
        self.groups = {
            path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in folder.iterdir() if path.is_dir()
        }

    def key(self, key: str, config: DictConfig) -> str:
        """What ``key``, which the config does not have, may have meant; begins with "; "."""
        if moved(key):
            return moved(key)
        *parents, name = key.split(".")
        parent = OmegaConf.select(config, ".".join(parents)) if parents else config
        siblings = [str(known) for known in parent] if OmegaConf.is_dict(parent) else []
        other = self._other_options(parents, name) if len(parents) == 1 else []
        if other:
            group = parents[0]
            listed = f"{', '.join(other[:6])}{', ...' * (len(other) > 6)}"
            return f"; it is a key of {group}={listed}: add {group}={other[0]}"
        for meant in (name, _ALIASES.get(name, "")):
            if meant in siblings and meant != name:
                return f"; did you mean {meant}?"
            if meant == "path" and self._command != "score" and not parents:
                return "; did you mean data=folder data.path=DIR?"
            places = _shallowest(meant, config)
            if places:
                return f"; did you mean {' or '.join(places[:4])}?"
        close = difflib.get_close_matches(name, siblings, n=1)
        if close:
            return f"; did you mean {close[0]}?"
        deeper = difflib.get_close_matches(name, {path.rpartition(".")[2] for path in _paths(config)}, n=1, cutoff=0.8)
        if deeper:
            return f"; did you mean {' or '.join(_shallowest(deeper[0], config)[:4])}?"
        return f"; there are {', '.join(sorted(siblings))}" if siblings else ""

    def option(self, group: str, value: str, known: Sequence[str]) -> str:
        """What an option that a group does not have may have meant; begins with "; "."""
        if group == "trainer" and (value in _ACCELERATORS or value.isdigit()):
            meant = f"devices={value}" if value.isdigit() else f"accelerator={_ACCELERATORS[value]}"
            return f"; did you mean trainer.{meant}? (options of trainer are {', '.join(known)})"
        if value.endswith((".yaml", ".yml")):
            return f"; put it into DIR/{group} and give 'hydra.searchpath=[file://DIR]' {group}={Path(value).stem}"
        if group == "data" and (re.search(r"[/\\.~]", value) or Path(value).exists()):
            return f"; did you mean data=folder {shlex.quote(f'data.path={value}')}?"
        return hint(value, known)

    def word(self, word: str, before: str, config: DictConfig) -> str:
        """What a word without "=" may have meant, after the word ``before``."""
        known = set(_paths(config))
        name, colon, value = word.partition(":")
        if colon and name in known:
            return f": {shlex.quote(f'{name}={value.strip()}')}"
        key, _, path = before.partition("=")
        if key.rpartition(".")[2] in PATHS and path and Path(f"{path} {word}").exists():
            return f", and quote a path with spaces: {shlex.quote(f'{before} {word}')}"
        keys = [f"{word}=VALUE"] if word in known else []
        keys += [f"{group}={word}" for group, options in self.groups.items() if word in options and group != "size"]
        if keys:
            return f": {' or '.join(keys[:4])}"
        if "." in name and name.split(".")[0] in config and not Path(word).exists():
            return self.key(name, config)
        key = before.partition("=")[0]
        if "=" in before and key.rpartition(".")[2] in PATHS:
            return f", and quote a path with spaces: {shlex.quote(f'{before} {word}')}"
        if self._command == "train" and (Path(word) / "checkpoints").is_dir():
            return f": ckpt=last {shlex.quote(f'out={word}')} goes on with that run"
        likely = re.search(r"[/\\.~]", word) or Path(word).exists()
        if self._command in ("train", "pack") and not likely:
            return ""
        meant, _, last = PATH_OF[self._command].rpartition(" ")
        return f": {meant} {shlex.quote(last + word)}".replace(":  ", ": ")

    def _other_options(self, parents: Sequence[str], name: str) -> list[str]:
        options = self.groups.get(parents[0], [])
        texts = {option: self._text(f"{parents[0]}/{option}") for option in options}
        found = [option for option, text in texts.items() if re.search(rf"^{re.escape(name)}:", text, re.MULTILINE)]
        return sorted(found, key=lambda option: (option not in ("folder", "vq", "patch"), option))

    def _text(self, option: str) -> str:
        """A file, and those of other groups whose keys it takes as its own."""
        text = (self._folder / f"{option}.yaml").read_text()
        return "\n".join([text, *map(self._text, re.findall(r"/([\w/]+)@_here_", text))])


def hint(name: str, known: Sequence[str]) -> str:
    """The nearest of the known names, or all of them; begins with "; "."""
    meant = _ALIASES.get(name, "")
    longer = sorted(one for one in known if len(name) > 2 and one.startswith(name))  # of a family only the first name
    close = [meant] if meant in known else longer[:4] or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(sorted(known))}"


def _shallowest(name: str, config: DictConfig) -> list[str]:
    """Keys of that last name that lie least deep."""
    found = [path for path in _paths(config) if path.rpartition(".")[2] == name]
    least = min((path.count(".") for path in found), default=0)
    return [path for path in found if path.count(".") == least]


def _paths(node: Any, path: str = "") -> Iterator[str]:
    plain = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    for key, value in plain.items() if isinstance(plain, dict) else ():
        where = f"{path}.{key}" if path else str(key)
        yield where
        yield from _paths(value, where)
