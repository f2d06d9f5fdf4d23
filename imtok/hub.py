"""A tokenizer on the Hugging Face Hub: fetched, pushed, and shown by a model card."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from typing_extensions import override

from imtok.card import PICTURE, REPORT, TASK, card, mismatch, read_report
from imtok.data.reading.transforms import CentreCrop
from imtok.errors import InputError
from imtok.grid import draw_grid
from imtok.locate import CONFIG, WEIGHTS, find_pretrained, hub_name
from imtok.pixels import as_channels, rgb_levels, to_float, to_rgb, to_uint8
from imtok.stored import Stored

log = logging.getLogger(__name__)
Own = TypeVar("Own", bound="OnHub")

_FIELDS = ("license", "license_name", "license_link", "language", "datasets", "base_model", "pipeline_tag")
_SHOWN = ("chelsea", "rocket")  # in the public domain, and held out of the first command's training


class OnHub(
    Stored,
    ModelHubMixin,
    library_name="imtok",
    pipeline_tag=TASK,
    tags=["imtok", "image-tokenizer", "vector-quantization"],
):
    """What :class:`imtok.tokenizer.Tokenizer` does with the hub, by the hub's own mixin."""

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride], nothing of a config is an argument here
        cls: type[Own],
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        packages: Sequence[str] = ("imtok",),
    ) -> Own:
        """Read a tokenizer from a folder here or from the Hugging Face Hub, in evaluation mode.

        Args:
            name: A folder as :meth:`load` takes it, or a model on the hub: ``org/name``, ``org/name@revision``, or
                either with ``hf:`` before it. Where there is a folder ``org/name``, it is the folder.
            revision: Branch, tag or commit of the model on the hub; None = its newest.
            token: For private models; None = that of ``hf auth login``.
            cache_dir: Where fetched files are kept; None = the hub's own cache.
            force_download: Fetch what is in the cache as well.
            local_files_only: Ask nobody: take what is in the cache.
            packages: See :meth:`load`.

        Raises:
            InputError: If there is no such tokenizer, or it cannot be fetched, or :meth:`load` refuses it.
        """
        settings = {"force_download": force_download, "local_files_only": local_files_only}
        return cls.load(find_pretrained(name, revision, token=token, cache_dir=cache_dir, **settings), packages)

    @override
    def save_pretrained(
        self, save_directory: str | Path, *, model_card_kwargs: dict[str, Any] | None = None, **settings: Any
    ) -> str | None:
        """Write weights, configuration, a picture and a model card; other files in the folder stay.

        Args:
            save_directory: The folder. A model card that is in it already stays as it is.
            model_card_kwargs: See :meth:`generate_model_card`.
            **settings: See :meth:`huggingface_hub.ModelHubMixin.save_pretrained`.

        Raises:
            InputError: If a report is not of this tokenizer.
            ValueError: As from :meth:`save`.
        """
        given = {**(model_card_kwargs or {}), "folder": Path(save_directory)}
        return super().save_pretrained(save_directory, model_card_kwargs=given, **settings)

    @override
    def push_to_hub(self, repo_id: str, *, model_card_kwargs: dict[str, Any] | None = None, **settings: Any) -> str:
        """Push what :meth:`save_pretrained` writes to the Hugging Face Hub, in one commit.

        Args:
            repo_id: ``org/name`` or, for one of your own, ``name``, with or without ``hf:`` before it. It is made if it
                is not there.
            model_card_kwargs: See :meth:`generate_model_card`.
            **settings: ``private``, ``token``, ``branch``, ``commit_message``, ``create_pr`` and others; see
                :meth:`huggingface_hub.ModelHubMixin.push_to_hub`.

        Returns:
            The address of the commit.

        Raises:
            InputError: If the hub does not take it.
            ValueError: As from :meth:`save`.
        """
        own = repo_id if "/" in repo_id else f"me/{repo_id.removeprefix('hf:')}"  # the hub knows whose it is
        model, revision = hub_name(own)
        if revision is not None:
            raise InputError(f"{repo_id} names a revision, which a push makes; for a branch give branch=NAME")
        repo_id = repo_id.removeprefix("hf:")
        given = {"name": model if "/" in repo_id else None, **(model_card_kwargs or {})}
        self._checked()  # before there is anything on the hub
        self.generate_model_card(**given)
        try:
            return super().push_to_hub(repo_id, model_card_kwargs=given, **settings)
        except (ValueError, TypeError):
            raise
        except Exception as error:  # the hub's client raises many kinds: offline, not allowed, no such branch, ...
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{repo_id} cannot be pushed to the hub ({reason}); log in by hf auth login, or give token=TOKEN"
            ) from None

    @override
    def generate_model_card(  # pyright: ignore[reportIncompatibleMethodOverride], the mixin's takes what a template takes
        self,
        report: str | Path | None = None,
        license: str | None = None,
        name: str | None = None,
        size: int | None = None,
        folder: Path | None = None,
    ) -> ModelCard:
        """The model card: facts, metrics, use, files and configuration.

        Args:
            report: What ``imtok eval`` wrote, or a run that has a report; None = that of the run that the tokenizer was
                read from, if it has one and it was measured with these weights.
            license: As the hub spells it: "apache-2.0", "mit", ...; None = that of ``metadata``, if it has one.
            name: On the hub, ``org/name``.
            size: Side of its images, in pixels; None = what it was trained on.
            folder: Where the files are that the card lists.

        Raises:
            InputError: If the report cannot be read, or is not of this tokenizer.
        """
        info = self._hub_mixin_info.model_card_data.to_dict()
        front = info | {name: self.metadata[name] for name in _FIELDS if self.metadata.get(name)}
        own = self.metadata.get("tags")
        tags = own if isinstance(own, list) else [own] if own else []
        front["tags"] = list(dict.fromkeys([*info["tags"], *map(str, tags)]))
        front |= {"license": license} if license else {}
        text = card(self, front, size or self.image_size, self._report(report), name, folder)
        return ModelCard(text, ignore_metadata_errors=True)

    @override
    def _save_pretrained(self, save_directory: Path) -> None:
        aside = save_directory / ".tokenizer"
        self.save(aside)
        for name in (WEIGHTS, CONFIG):  # what is between the two is refused when it is read
            (aside / name).replace(save_directory / name)
        aside.rmdir()
        self._draw(save_directory / PICTURE)

    def _draw(self, path: Path) -> None:
        """Photographs over their reconstructions; no picture if there are no photographs, or more must be told."""
        from imtok.data.sources.photos import (
            photograph,  # here, since it imports torchvision, which takes as long as torch
        )

        path.unlink(missing_ok=True)
        if self.image_size is None:
            return
        try:
            if self.condition is not None:
                self.condition.require_nothing()
            photographs = [photograph(name) for name in _SHOWN]
        except InputError as error:
            log.info("the model card gets no picture: %s", error)
            return
        crop, weight = CentreCrop(self.image_size), self.decoder.last_layer
        nothing = np.random.default_rng(0)  # is drawn
        originals = [crop(as_channels(image, self.channels), nothing) for image in photographs]
        modes = {module: module.training for module in self.modules()}
        try:
            with torch.no_grad():
                images = self.eval()(to_float(torch.stack(originals)).to(weight)).image
        finally:
            for module, training in modes.items():
                module.training = training
        draw_grid([rgb_levels(image) for image in originals], list(to_uint8(to_rgb(images)).cpu())).save(path)

    def _report(self, given: str | Path | None) -> dict[str, Any] | None:
        """The report for the card; None if none was asked for and none fits."""
        if given is not None:
            report = read_report(Path(given))
            problem = mismatch(report, self.quantizer, self.fingerprint())
            if problem is not None:
                raise InputError(f"{given} {problem}; evaluate this tokenizer, and give report=DIR")
            return report
        run = self.source.parent if self.source is not None and self.source.name == "tokenizer" else None
        if run is None or not (run / "evaluation" / REPORT).is_file():
            return None
        report = read_report(run)
        problem = mismatch(report, self.quantizer, self.fingerprint())
        if problem is not None:
            log.warning("%s %s, so the model card has no metrics", run / "evaluation", problem)
            return None
        return report
