"""A hub in a folder: what the tests push to and fetch from in place of huggingface.co."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import CommitInfo, HfApi


class FolderHub:
    """Models as folders of commits; a branch or tag is the number of a commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.revisions: dict[tuple[str, str], int] = {}
        self.asked: list[dict[str, object]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the client of the hub talk to this one."""

        def create_repo(_, repo_id, **settings):
            self.asked.append(settings)
            return type("Repository", (), {"repo_id": repo_id if "/" in repo_id else f"me/{repo_id}"})()

        monkeypatch.setattr(HfApi, "create_repo", create_repo)
        monkeypatch.setattr(HfApi, "upload_folder", lambda _, **settings: self.upload(**settings))
        monkeypatch.setattr("imtok.locate.snapshot_download", self.download)

    def upload(self, repo_id, folder_path, revision=None, **settings):
        """A commit that holds the files of the one before and those of a folder."""
        self.asked.append(settings)
        branch, names = (repo_id, revision or "main"), [name for model, name in self.revisions if model == repo_id]
        parent = self.revisions.get(branch, self.revisions.get((repo_id, "main")))
        number = 1 + max((self.revisions[repo_id, name] for name in names), default=0)
        commit, digits = self.folder / repo_id / str(number), f"{number:040x}"
        if parent is not None:
            shutil.copytree(self.folder / repo_id / str(parent), commit)
        shutil.copytree(folder_path, commit, dirs_exist_ok=True)
        self.revisions |= {branch: number, (repo_id, digits): number}
        return CommitInfo(f"https://huggingface.co/{repo_id}/commit/{digits}", "", "", digits)

    def download(self, model, revision=None, allow_patterns=(), **settings):
        """A folder with the files that were asked for."""
        self.asked.append(settings)
        if (model, revision or "main") not in self.revisions:
            raise OSError(f"404 Client Error: no {model} at {revision}\nRequest ID: 7")
        commit = self.folder / model / str(self.revisions[model, revision or "main"])
        snapshot = self.folder / "cache" / model / commit.name
        shutil.copytree(commit, snapshot, dirs_exist_ok=True)
        for path in snapshot.iterdir():
            if path.name not in allow_patterns:
                path.unlink()
        return str(snapshot)
