"""Weights & Biases as a mirror of the log. Stock logging stops the run when the network or the key is missing."""

import contextlib
import inspect
import logging
import netrc
import os
import secrets
import socket
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

from lightning.pytorch.loggers import WandbLogger
from typing_extensions import override

from imtok.files import write_bytes

log = logging.getLogger(__name__)


_LIGHTNINGS = ("prefix", "offline", "log_model", "experiment", "anonymous", "checkpoint_name", "add_file_policy")
_OURS = ("_target_", "save_dir", "dir", "version", "id", "mode", *_LIGHTNINGS)


class Wandb(WandbLogger):
    """Lightning's logger, on a run that goes offline without key or network. Its steps are optimiser steps.

    A run that goes on goes on there, too. What wandb reads from the environment holds where the config says nothing:
    ``WANDB_PROJECT`` (imtok without it), ``WANDB_ENTITY``, ``WANDB_NAME``, ``WANDB_RUN_ID``, ``WANDB_MODE``,
    ``WANDB_DISABLED``, ``WANDB_BASE_URL`` and so on.

    Args:
        folder: The run folder; ``wandb/`` in it holds what is to be sent, and its name is the run's.
        config: Plain values.
        section: Arguments of Lightning's logger, and of ``wandb.init``.

    Raises:
        ValueError: If neither has such an argument.
    """

    def __init__(self, folder: Path, config: dict[str, Any], section: dict[str, Any]) -> None:
        with contextlib.suppress(ModuleNotFoundError):  # said when it starts
            _check_arguments(name for name in section if name not in _OURS)
            super().__init__(**{"save_dir": str(folder), **{k: v for k, v in section.items() if k != "_target_"}})
        self.folder = folder
        self.config = config
        self.section = section
        self.run: Any = None

    def start(self) -> None:
        """Begin the run there, or go on with it."""
        import wandb

        folder, section = self.folder, self.section
        mode, reason = _mode(section)
        if reason:
            log.warning("wandb works offline (%s); send it later with: wandb sync %s/wandb/offline-*", reason, folder)
        further = {name: value for name, value in section.items() if name not in _OURS}
        given = {
            "project": os.environ.get("WANDB_PROJECT") or "imtok",
            "entity": os.environ.get("WANDB_ENTITY") or None,
            "name": os.environ.get("WANDB_NAME") or folder.name,
            "resume": "allow",
            "settings": wandb.Settings(init_timeout=20, console="off", silent=True),
            **further,
        }
        run_id = section.get("id") or section.get("version") or _run_id(folder)
        place = section.get("save_dir") or section.get("dir") or str(folder)
        self.run = wandb.init(**given, id=run_id, dir=place, config=self.config, mode=mode)
        self.run.define_metric("trainer/global_step")
        self.run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    @property
    @override
    def experiment(self) -> Any:
        return self.run

    @override
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if self.run is not None:
            named = {f"{self._prefix}-{name}" if self._prefix else name: value for name, value in metrics.items()}
            self.run.log(named if step is None else {**named, "trainer/global_step": step}, step=step)

    def log_folder(self, kind: str, folder: Path) -> None:
        """Send a folder as an artefact of the run."""
        import wandb

        artifact = wandb.Artifact(f"{kind}-{self.run.id}", type=kind)
        artifact.add_dir(str(folder))
        self.run.log_artifact(artifact)


def _check_arguments(names: Iterable[str]) -> None:
    import wandb

    taken = inspect.signature(wandb.init).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    unknown = [name for name in names if name not in taken and not open_ended]
    if unknown:
        raise ValueError(f"wandb.init has no argument {', '.join(unknown)}")


def _run_id(folder: Path) -> str:
    """Under which the run is known there; kept in its folder, so that it goes on under the same."""
    given = os.environ.get("WANDB_RUN_ID")
    if given:
        return given
    path = folder / "wandb" / "id"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, secrets.token_hex(4).encode())
    return path.read_text().strip()


def _mode(section: dict[str, Any]) -> tuple[Any, str | None]:
    """The mode to start in, and why it is not online, if nobody has chosen it."""
    if os.environ.get("WANDB_DISABLED", "").lower() not in ("", "0", "false", "no", "off"):
        return "disabled", None
    chosen = "offline" if section.get("offline") else section.get("mode") or os.environ.get("WANDB_MODE")
    chosen = {"dryrun": "offline", "run": "online"}.get(str(chosen), chosen)  # their names of before
    if chosen in ("online", "offline", "disabled", "shared"):
        return chosen, None
    given = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    host, port = _address(given)
    if not (os.environ.get("WANDB_API_KEY") or _has_netrc(host)):
        return "offline", "no API key"
    proxy = getproxies().get("http" if given.startswith("http:") else "https")
    through = _address(proxy) if proxy and not proxy_bypass(host) else (host, port)
    reached = threading.Event()
    threading.Thread(target=_knock, args=(through, reached), daemon=True).start()
    if reached.wait(timeout=3):  # looking up a name has no time limit of its own
        return "online", None
    return "offline", f"{through[0]}:{through[1]} cannot be reached"


def _address(url: str) -> tuple[str, int]:
    """Host and port of a URL: the port that it names, or that of its scheme."""
    parts = urlparse(url if "://" in url else f"https://{url}")
    return parts.hostname or "api.wandb.ai", parts.port or (80 if parts.scheme == "http" else 443)


def _knock(address: tuple[str, int], reached: threading.Event) -> None:
    with contextlib.suppress(OSError):
        socket.create_connection(address, timeout=3).close()
        reached.set()


def _has_netrc(host: str) -> bool:
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
