"""Where the YAML files of imtok are."""

from pathlib import Path


def config_folder() -> Path:
    """The folder of YAML files: packed into the package, or beside it in a checkout."""
    package = Path(__file__).parent
    packed = package / "configs"
    return packed if packed.is_dir() else package.parent / "configs"
