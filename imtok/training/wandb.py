"""Weights & Biases as a mirror of the log. Stock logging stops the run when the network or the key is missing."""

import contextlib
import logging
import netrc
import os
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

log = logging.getLogger(__name__)


class Wandb:
    """Sends rows and pictures; goes offline without key or network, and silent after an error, but never stops a run.

    Args:
        folder: The run folder; ``wandb/`` in it holds what is to be sent, and its name is the run's.
        config: Plain values.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.run: Any = None
        mode, reason = _mode()
        if reason:
            log.warning("wandb works offline (%s); send it later with: wandb sync %s/wandb/offline-*", reason, folder)
        try:
            import wandb

            settings = wandb.Settings(init_timeout=20, console="off", silent=True)
            self.run = wandb.init(
                project="imtok", name=folder.name, dir=str(folder), config=config, mode=mode, settings=settings
            )
        except Exception as error:  # whatever it is, it must not stop a run
            self._give_up(error)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Send the numbers of a step."""
        if self.run is not None:
            try:
                self.run.log({**values, "step": step})
            except Exception as error:
                self._give_up(error)

    def picture(self, step: int, path: Path) -> None:
        """Send a picture file under a fixed name."""
        if self.run is not None:
            try:
                import wandb

                self.run.log({"reconstructions": wandb.Image(str(path)), "step": step})
            except Exception as error:
                self._give_up(error)

    def finish(self) -> None:
        """Close the run."""
        if self.run is not None:
            try:
                self.run.finish()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.run = None
        log.warning("wandb is off for the rest of this run (%s); metrics.csv has everything", error)


def _mode() -> tuple[Any, str | None]:
    """The mode to start in, and why it is not online."""
    chosen = os.environ.get("WANDB_MODE")
    if chosen in ("online", "offline", "disabled", "shared"):
        return chosen, None
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or "api.wandb.ai"
    if not (os.environ.get("WANDB_API_KEY") or _has_netrc(host)):
        return "offline", "no API key"
    reached = threading.Event()
    threading.Thread(target=_knock, args=(host, reached), daemon=True).start()
    if reached.wait(timeout=3):  # looking up a name has no time limit of its own
        return "online", None
    return "offline", f"{host} cannot be reached"


def _knock(host: str, reached: threading.Event) -> None:
    with contextlib.suppress(OSError):
        socket.create_connection((host, 443), timeout=3).close()
        reached.set()


def _has_netrc(host: str) -> bool:
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
