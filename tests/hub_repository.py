"""What a Hub keeps: repositories of whole commits, so that a revision gives the files as they were."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

# Endings that the Hub's .gitattributes sends to the store of large files.
LARGE_ENDINGS = (".safetensors", ".onnx", ".npz", ".png", ".glb", ".bin", ".pt", ".pkl")
LARGE_SIZE = 10 * 2**20


@dataclass(frozen=True)
class StoredFile:
    """One version of a file.

    Attributes:
        content: Its bytes.
        large: Whether it is in the store of large files (LFS): other headers, and a redirect when it is read.
    """

    content: bytes
    large: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        """Name of the blob in git: of the content, or of the pointer to a large file."""
        content = self._pointer() if self.large else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        """What tells the client's cache that it has this version."""
        return self.sha256 if self.large else self.git_oid

    def described(self, path: str) -> dict[str, Any]:
        """As the tree and paths-info endpoints say it."""
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.git_oid}
        if self.large:
            pointer = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self._pointer())}
            entry["lfs"] = pointer
        return entry

    def _pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()


@dataclass(frozen=True)
class Commit:
    """All files at one time, and who came before."""

    oid: str
    parent: str | None
    title: str
    files: Mapping[str, StoredFile]
    date: str


@dataclass
class Repository:
    """One repository of models, with an empty first commit on "main" as the Hub makes them.

    Attributes:
        repo_id: "org/name".
        private: Only readable with a token.
        gated: Everybody sees that it is there; only the Hub's `readers` get its files.
        commits: By hash.
        branches, tags: Name -> hash.
    """

    repo_id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._append("main", None, "initial commit", {})

    @property
    def files(self) -> dict[str, bytes]:
        """Contents on "main", by path: what a test looks at."""
        return {path: file.content for path, file in self.find("main").files.items()}

    def find(self, revision: str) -> Commit | None:
        """The commit of a hash, a tag or a branch."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def history(self, revision: str) -> list[Commit]:
        """Commits from a revision back to the first."""
        found, commit = [], self.find(revision)
        while commit is not None:
            found.append(commit)
            commit = self.commits.get(commit.parent or "")
        return found

    def commit(self, files: Mapping[str, bytes], revision: str = "main", title: str = "change files") -> str:
        """Puts files on top of a branch, as an upload does; returns the commit's hash."""
        changed = {path: StoredFile(content, is_large(path, len(content))) for path, content in files.items()}
        return self.replace({**self.find(revision).files, **changed}, revision, title)

    def replace(self, files: Mapping[str, StoredFile], revision: str, title: str) -> str:
        """A commit on top of a branch that holds exactly these files."""
        return self._append(revision, self.branches[revision], title, files)

    def _append(self, branch: str, parent: str | None, title: str, files: Mapping[str, StoredFile]) -> str:
        content = "".join(f"{path} {file.git_oid}\n" for path, file in sorted(files.items()))
        oid = hashlib.sha1(f"{self.repo_id}\n{len(self.commits)}\n{parent}\n{title}\n{content}".encode()).hexdigest()
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.commits[oid] = Commit(oid, parent, title, dict(files), date)
        self.branches[branch] = oid
        return oid


def is_large(path: str, size: int) -> bool:
    """Whether the Hub keeps a file in the store of large files."""
    return path.endswith(LARGE_ENDINGS) or size > LARGE_SIZE


def tree(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """The entries below a folder ("" is the root), folders first as paths only."""
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    below = {path: file for path, file in sorted(commit.files.items()) if path.startswith(prefix)}
    parts = [path[len(prefix) :].split("/")[:-1] for path in below]
    folders = {prefix + "/".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)}
    if not recursive:
        folders = {path for path in folders if "/" not in path[len(prefix) :]}
        below = {path: file for path, file in below.items() if "/" not in path[len(prefix) :]}
    entries = [{"type": "directory", "path": path, "oid": folder_oid(path)} for path in sorted(folders)]
    return entries + [file.described(path) for path, file in below.items()]


def folder_oid(path: str) -> str:
    """Some name of a folder's object."""
    return hashlib.sha1(path.encode()).hexdigest()


def without(files: Mapping[str, StoredFile], deleted: str, is_folder: bool) -> dict[str, StoredFile]:
    """Files without one of them, or without a folder."""
    prefix = deleted.rstrip("/") + "/"
    return {
        path: file for path, file in files.items() if not (path.startswith(prefix) if is_folder else path == deleted)
    }
