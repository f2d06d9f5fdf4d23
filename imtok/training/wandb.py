"""Weights & Biases as a mirror of the log. Stock logging stops the run when the network or the key is missing."""

import contextlib
import logging
import netrc
import os
import secrets
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

from imtok.files import write_bytes

log = logging.getLogger(__name__)


class Wandb:
    """Sends rows and pictures; goes offline without key or network, and silent after an error, but never stops a run.

    A run that goes on goes on there, too. What wandb reads from the environment holds: ``WANDB_PROJECT`` (imtok
    without it), ``WANDB_ENTITY``, ``WANDB_NAME``, ``WANDB_RUN_ID``, ``WANDB_BASE_URL`` and so on.

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
                project=os.environ.get("WANDB_PROJECT") or "imtok",
                entity=os.environ.get("WANDB_ENTITY") or None,
                name=os.environ.get("WANDB_NAME") or folder.name,
                id=_run_id(folder),
                resume="allow",
                dir=str(folder),
                config=config,
                mode=mode,
                settings=settings,
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
                self.run = None
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.run = None
        log.warning("wandb is off for the rest of this run (%s); metrics.csv has everything", error)


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


def _mode() -> tuple[Any, str | None]:
    """The mode to start in, and why it is not online."""
    chosen = os.environ.get("WANDB_MODE")
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
