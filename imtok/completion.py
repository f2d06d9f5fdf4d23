"""What a shell offers for the word that is being typed; ``eval "$(imtok --completion)"`` turns it on in bash."""

from collections.abc import Iterator

import yaml

from imtok.folders import config_folder
from imtok.plain import PLAIN, short_words

# In zsh after: autoload bashcompinit; bashcompinit
SCRIPT = "complete -o default -o nospace -C 'imtok --complete' imtok\n"


def complete(line: str, commands: tuple[str, ...]) -> list[str]:
    """The words that a command line may go on with.

    Args:
        line: What has been typed so far, ``imtok`` included.
        commands: The names of all commands.

    Returns:
        Whole words; of ``GROUP=OPTION`` what follows ``=``, as bash wants it.

    Example:
        >>> complete("imtok in", ("info", "train"))
        ['info ']
        >>> complete("imtok train quantizer=fsq_b", ("train",))
        ['fsq_bits_10', 'fsq_bits_12', 'fsq_bits_16']
    """
    words = line.split(" ")
    typed = words[-1]
    if len(words) <= 2:
        return [f"{name} " for name in sorted(commands) if name.startswith(typed)]
    command = words[1]
    if command in PLAIN:
        return [f"{key}=" for key in sorted(PLAIN[command].keys) if key.startswith(typed)]
    path = config_folder() / f"{command}.yaml"
    if command not in commands or not path.is_file():
        return []
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    groups = {name for entry in config.pop("defaults") if isinstance(entry, dict) for name in entry if " " not in name}
    group, equal, value = typed.partition("=")
    if equal:
        options = sorted(file.stem for file in (config_folder() / group).glob("*.yaml")) if group in groups else []
        return [option for option in options if option.startswith(value)]
    config.pop("hydra", None)
    if "trainer" in groups:
        config["trainer"] = yaml.safe_load((config_folder() / "trainer/auto.yaml").read_text(encoding="utf-8"))
    short = (word for word in short_words(command) if not word.startswith("trainer."))
    return [f"{key}=" for key in sorted({*groups, *short, *_keys(config)}) if key.startswith(typed)]


def _keys(node: dict[str, object], path: str = "") -> Iterator[str]:
    """Every key of a config, with dots."""
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"
