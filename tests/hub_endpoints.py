"""What the Hub on 127.0.0.1 answers: one function an endpoint, and the table of their paths.

Names of endpoints, fields and headers are those that `huggingface_hub` 1.33 and 2.4 use.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import yaml
from hub_repository import Commit, Repository, StoredFile, is_large, tree, without

if TYPE_CHECKING:
    from hub_server import HubServer

REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"


@dataclass(frozen=True)
class Answer:
    """A response: status, headers beside Content-Length, body."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Call:
    """A request that fits a route.

    Attributes:
        hub: Whose it is.
        match: Named parts of the path, unquoted: `repo`, `revision`, `path`, ...
        query: Last value of each parameter.
        body: As sent.
        token: As sent, or None.
        range: The Range header.
    """

    hub: "HubServer"
    match: dict[str, str]
    query: dict[str, str]
    body: bytes
    token: str | None
    range: str | None

    def json(self) -> Any:
        return json.loads(self.body)

    def repository(self, write: bool = False) -> Repository:
        """The repository of the path, if this token may see (or change) it.

        Raises:
            Refused: As the Hub refuses. A token that it does not know is worse than none, and a stranger is not told
                whether a private repository exists.
        """
        known = self.token == self.hub.token
        if self.token and not known and self.token not in self.hub.readers:
            raise Refused(error(401, "", "Invalid credentials in Authorization header"))
        repository = self.hub.repos.get(self.match["repo"])
        if repository is None or (repository.private and not known):
            raise Refused(error(404 if known else 401, "RepoNotFound", "Repository not found"))
        if write and not known:
            raise Refused(error(403 if self.token else 401, "", "You do not have the rights to write here"))
        return repository

    def commit(self) -> Commit:
        """The commit of the path's revision; errors as `repository`, or that there is none."""
        commit = self.repository().find(self.match.get("revision") or "main")
        if commit is None:
            raise Refused(error(404, "RevisionNotFound", f"Invalid rev id: {self.match['revision']}"))
        return commit

    def body_or_part(self, content: bytes, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        """A file, or the range of it that was asked for ("bytes=a-" or "bytes=a-b")."""
        headers = (*headers, ("Accept-Ranges", "bytes"))
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.range or "")
        if not part:
            return Answer(200, content, headers)
        first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        if first >= len(content):
            return Answer(416, b"", (*headers, ("Content-Range", f"bytes */{len(content)}")))
        where = ("Content-Range", f"bytes {first}-{last}/{len(content)}")
        return Answer(206, content[first : last + 1], (*headers, where))


class Refused(Exception):
    """An answer other than the one that was asked for."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


# ---------------------------------------------------------------------------------------------------------------------
# accounts and repositories


def _who_am_i(call: Call) -> Answer:
    if call.token != call.hub.token:
        return error(401, "", "Invalid credentials in Authorization header")
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    orgs = [{"type": "org", "name": "org", "roleInOrg": "admin"}]
    return as_json({"type": "user", "name": call.hub.user, "fullname": call.hub.user, "orgs": orgs, "auth": auth})


def _create(call: Call) -> Answer:
    wanted = call.json()
    repo_id = f"{wanted.get('organization') or call.hub.user}/{wanted['name']}"
    if call.token != call.hub.token:
        return error(401, "", "Invalid username or password.")
    if repo_id.split("/")[0] not in (call.hub.user, "org"):
        return error(403, "", f'You don\'t have the rights to create a model under the namespace "{repo_id}"')
    answer = {"url": f"{call.hub.url}/{repo_id}", "name": repo_id, "id": repo_id}
    if repo_id in call.hub.repos:
        return as_json(answer | {"error": "You already created this model repo"}, 409)
    call.hub.create(repo_id, private=bool(wanted.get("private") or wanted.get("visibility") == "private"))
    return as_json(answer)


def _settings(call: Call) -> Answer:
    wanted, repository = call.json(), call.repository(write=True)
    repository.private = wanted.get("private", wanted.get("visibility", "public") == "private")
    repository.gated = bool(wanted.get("gated", repository.gated))
    return as_json({})


def _validate_yaml(call: Call) -> Answer:
    """As the Hub: metadata that is no YAML mapping is an error, and none at all a warning."""
    block = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", call.json()["content"], re.DOTALL)
    if block is None:
        return as_json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    try:
        valid = isinstance(yaml.safe_load(block[1]), dict)
    except yaml.YAMLError:
        valid = False
    if not valid:
        return as_json({"errors": [{"message": "the metadata is not a YAML mapping"}], "warnings": []}, 400)
    return as_json({"errors": [], "warnings": []})


def _info(call: Call) -> Answer:
    repository, commit = call.repository(), call.commit()
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    if "blobs" in call.query:
        siblings = [_sibling(path, file) for path, file in sorted(commit.files.items())]
    return as_json(
        {
            "id": repository.repo_id,
            "modelId": repository.repo_id,
            "author": repository.repo_id.split("/")[0],
            "sha": commit.oid,
            "lastModified": commit.date,
            "private": repository.private,
            "gated": "auto" if repository.gated else False,
            "disabled": False,
            "siblings": siblings,
            "tags": [],
        }
    )


def _sibling(path: str, file: StoredFile) -> dict[str, Any]:
    entry = {"rfilename": path, "size": len(file.content), "blobId": file.git_oid}
    if file.large:
        pointer = file.described(path)["lfs"]
        entry["lfs"] = {"sha256": file.sha256, "size": pointer["size"], "pointerSize": pointer["pointerSize"]}
    return entry


# ---------------------------------------------------------------------------------------------------------------------
# revisions


def _refs(call: Call) -> Answer:
    repository = call.repository()
    kinds = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
    listed = {
        name: [{"name": key, "ref": f"refs/{kind}/{key}", "targetCommit": oid} for key, oid in refs.items()]
        for name, (kind, refs) in kinds.items()
    }
    return as_json(listed | {"converts": [], "pullRequests": []})


def _commits(call: Call) -> Answer:
    call.commit()
    history = call.repository().history(call.match["revision"])
    author = [{"user": call.hub.user}]
    return as_json([{"id": c.oid, "title": c.title, "message": "", "date": c.date, "authors": author} for c in history])


def _create_branch(call: Call) -> Answer:
    repository, name = call.repository(write=True), call.match["revision"]
    start = repository.find((json.loads(call.body or b"{}")).get("startingPoint", "main"))
    if name in repository.branches:
        return error(409, "", f"Reference already exists: refs/heads/{name}")
    if start is None:
        return error(404, "RevisionNotFound", "Invalid rev id")
    repository.branches[name] = start.oid
    return as_json({})


def _create_tag(call: Call) -> Answer:
    repository, commit = call.repository(write=True), call.commit()
    name = call.json()["tag"]
    if name in repository.tags:
        return error(409, "", f"Reference already exists: refs/tags/{name}")
    repository.tags[name] = commit.oid
    return as_json({})


def _delete_ref(kind: str) -> Callable[[Call], Answer]:
    def delete(call: Call) -> Answer:
        refs = getattr(call.repository(write=True), kind)
        return as_json({}) if refs.pop(call.match["revision"], None) else error(404, "RevisionNotFound", "no such name")

    return delete


# ---------------------------------------------------------------------------------------------------------------------
# uploads


def _preupload(call: Call) -> Answer:
    """How each file is to be sent, and the version that is there already."""
    call.repository(write=True)
    there = call.commit().files
    answers = []
    for file in call.json()["files"]:
        large = is_large(file["path"], file["size"])
        known = there.get(file["path"])
        mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        answers.append({"path": file["path"], "oid": known.etag if known else None} | mode)
    return as_json({"files": answers})


def _lfs_batch(call: Call) -> Answer:
    call.repository(write=True)
    objects = []
    for wanted in call.json()["objects"]:
        entry = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in call.hub.blobs:
            url = f"{call.hub.url}/lfs/{wanted['oid']}"
            entry["actions"] = {"upload": {"href": url}, "verify": {"href": f"{url}/verify"}}
        objects.append(entry)
    return as_json({"transfer": "basic", "objects": objects})


def _lfs_upload(call: Call) -> Answer:
    if StoredFile(call.body).sha256 != call.match["oid"]:
        return error(400, "", "the content has another SHA-256")
    call.hub.blobs[call.match["oid"]] = call.body
    return Answer()


def _lfs_verify(call: Call) -> Answer:
    content = call.hub.blobs.get(call.json()["oid"])
    there = content is not None and len(content) == call.json()["size"]
    return as_json({}) if there else error(404, "", "no such upload")


def _commit(call: Call) -> Answer:
    """Lines of JSON: a header, then what changes."""
    repository, revision = call.repository(write=True), call.match["revision"]
    if revision not in repository.branches:
        return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    lines = [json.loads(line) for line in call.body.splitlines() if line]
    header = lines[0]["value"]
    parent = header.get("parentCommit")
    if parent and not repository.branches[revision].startswith(parent):
        return error(412, "", "A commit has happened since. Please refresh and try again.")
    files = dict(repository.find(revision).files)
    for line in lines[1:]:
        files = _changed(files, line["key"], line["value"], call.hub.blobs)
    oid = repository.replace(files, revision, header["summary"])
    url = f"{call.hub.url}/{repository.repo_id}/commit/{oid}"
    return as_json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})


def _changed(
    files: dict[str, StoredFile], key: str, value: dict[str, Any], blobs: dict[str, bytes]
) -> dict[str, StoredFile]:
    path = value["path"]
    if key == "file":
        return files | {path: StoredFile(base64.b64decode(value["content"]))}
    if key == "lfsFile" and value["oid"] in blobs:
        return files | {path: StoredFile(blobs[value["oid"]], large=True)}
    if key in ("deletedFile", "deletedFolder"):
        return without(files, path, key == "deletedFolder")
    raise Refused(error(400, "", f"{key} of {path} cannot be committed"))


# ---------------------------------------------------------------------------------------------------------------------
# downloads


def _tree(call: Call) -> Answer:
    commit, folder = call.commit(), call.match.get("path") or ""
    entries = tree(commit, folder, call.query.get("recursive", "").lower() in ("true", "1"))
    if folder and not entries:
        return error(404, "EntryNotFound", f"{folder} does not exist", commit)
    return as_json(entries)


def _paths_info(call: Call) -> Answer:
    commit = call.commit()
    asked = parse_qs(call.body.decode()).get("paths", [])
    return as_json([commit.files[path].described(path) for path in asked if path in commit.files])


def _resolve(call: Call) -> Answer:
    """One file of a revision. A large one is a redirect to where it is stored, with its name and size in headers."""
    repository, path = call.repository(), call.match["path"]
    if repository.gated and call.token not in call.hub.readers:
        return error(403 if call.token else 401, "GatedRepo", f"Access to model {repository.repo_id} is restricted")
    commit = call.commit()
    if path not in commit.files:
        return error(404, "EntryNotFound", "Entry not found", commit)
    file = commit.files[path]
    headers = (("X-Repo-Commit", commit.oid), ("ETag", f'"{file.etag}"'))
    if not file.large:
        return call.body_or_part(file.content, headers)
    call.hub.blobs[file.sha256] = file.content
    linked = (("X-Linked-Etag", f'"{file.sha256}"'), ("X-Linked-Size", str(len(file.content))))
    return Answer(302, b"", (*headers, *linked, ("Location", f"{call.hub.storage_url}/cdn/{file.sha256}")))


def _cdn(call: Call) -> Answer:
    content = call.hub.blobs.get(call.match["oid"])
    if content is None:
        return error(404, "", "no such object")
    return call.body_or_part(content, (("ETag", f'"{call.match["oid"]}"'),))


ROUTES: tuple[tuple[str, str, Callable[[Call], Answer]], ...] = (
    ("GET", "/api/whoami-v2", _who_am_i),
    ("POST", "/api/repos/create", _create),
    ("POST", "/api/validate-yaml", _validate_yaml),
    ("PUT", f"/api/models/{REPO}/settings", _settings),
    ("GET", f"/api/models/{REPO}/refs", _refs),
    ("GET", f"/api/models/{REPO}/commits/{REVISION}", _commits),
    ("POST", f"/api/models/{REPO}/branch/{REVISION}", _create_branch),
    ("DELETE", f"/api/models/{REPO}/branch/{REVISION}", _delete_ref("branches")),
    ("POST", f"/api/models/{REPO}/tag/{REVISION}", _create_tag),
    ("DELETE", f"/api/models/{REPO}/tag/{REVISION}", _delete_ref("tags")),
    ("POST", f"/api/models/{REPO}/preupload/{REVISION}", _preupload),
    ("POST", f"/api/models/{REPO}/commit/{REVISION}", _commit),
    ("GET", f"/api/models/{REPO}/tree/{REVISION}(?:/(?P<path>.+))?", _tree),
    ("POST", f"/api/models/{REPO}/paths-info/{REVISION}", _paths_info),
    ("GET", f"/api/models/{REPO}/revision/{REVISION}", _info),
    ("GET", f"/api/models/{REPO}", _info),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", _lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", _lfs_upload),
    ("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify", _lfs_verify),
    ("GET", "/cdn/(?P<oid>[0-9a-f]{64})", _cdn),
    ("GET", f"/{REPO}/resolve/{REVISION}/(?P<path>.+)", _resolve),
)


def as_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), (("Content-Type", "application/json"),))


def error(status: int, code: str, message: str, commit: Commit | None = None) -> Answer:
    """An error as the Hub says it: what the client understands stands in headers."""
    headers = [("X-Error-Code", code)] if code else []
    headers += [("X-Error-Message", message)] + ([("X-Repo-Commit", commit.oid)] if commit else [])
    body = json.dumps({"error": message}).encode()
    return Answer(status, body, (*headers, ("Content-Type", "application/json")))
