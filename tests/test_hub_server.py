"""The Hub of the tests, with the real client: what it says must be what the client expects, and faults must happen."""

import textwrap
from pathlib import Path

import pytest
from hub_server import HubServer, run_with_hub

CLIENT = """
import pathlib, sys
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import *

def refusal(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return type(error).__name__
    return "nothing"

api, here = HfApi(), pathlib.Path("work")
here.mkdir()
"""

ROUND_TRIP = """
assert api.whoami()["name"] == "tester"
assert api.create_repo("org/a", private=True).repo_id == "org/a"
assert api.create_repo("org/a", exist_ok=True).repo_id == "org/a"
assert refusal(api.create_repo, "org/a") == "HfHubHTTPError"
assert refusal(api.create_repo, "strangers/a") == "HfHubHTTPError"
assert refusal(api.model_info, "org/a", token=False) == "RepositoryNotFoundError"
api.update_repo_settings("org/a", private=False)
assert not api.model_info("org/a", token=False).private

def upload(text, **kwargs):
    (here / "sub").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "sub/notes.txt"):
        (here / name).write_text(f"{text} {name}")
    (here / "README.md").write_text("---\\nlicense: apache-2.0\\n---\\n# Card\\n")
    return api.upload_folder(repo_id="org/a", folder_path=here, **kwargs).oid

first = upload("first")
api.create_tag("org/a", tag="v1")
api.create_branch("org/a", branch="side/line")
second = upload("second")
assert upload("second") == second, "an upload without changes made a commit"
side = upload("side", revision="side/line")

def content(name, revision=None):
    return pathlib.Path(api.hf_hub_download("org/a", name, revision=revision)).read_text()

for name in ("config.json", "model.safetensors", "sub/notes.txt"):
    assert content(name) == f"second {name}"
    assert content(name, "v1") == content(name, first) == f"first {name}"
    assert content(name, "side/line") == f"side {name}"
assert api.model_info("org/a", revision="v1").sha == first
siblings = {s.rfilename: s for s in api.model_info("org/a", files_metadata=True).siblings}
assert siblings["model.safetensors"].lfs.size == len("second model.safetensors") and siblings["config.json"].size
assert [c.commit_id for c in api.list_repo_commits("org/a")][:2] == [second, first]
refs = api.list_repo_refs("org/a")
assert {b.name: b.target_commit for b in refs.branches} == {"main": second, "side/line": side}
assert [t.name for t in refs.tags] == ["v1"]
tree = {entry.path: entry for entry in api.list_repo_tree("org/a")}
assert set(tree) == {"README.md", "config.json", "model.safetensors", "sub"}
assert "sub/notes.txt" in {entry.path for entry in api.list_repo_tree("org/a", recursive=True)}
(info,) = api.get_paths_info("org/a", ["model.safetensors", "none"])
assert info.lfs.sha256 == tree["model.safetensors"].lfs.sha256
assert api.file_exists("org/a", "config.json") and not api.file_exists("org/a", "none")
api.delete_file("config.json", "org/a")
api.delete_folder("sub", "org/a")
assert set(api.list_repo_files("org/a")) == {"README.md", "model.safetensors"}
snapshot = pathlib.Path(api.snapshot_download("org/a", revision=first))
assert (snapshot / "sub/notes.txt").read_text() == "first sub/notes.txt"
add = CommitOperationAdd("x", b"x")
stale = refusal(api.create_commit, "org/a", [add], commit_message="late", parent_commit=first)
assert stale == "HfHubHTTPError"
card = CommitOperationAdd("README.md", b"---\\n- no mapping\\n---\\n")
assert refusal(api.create_commit, "org/a", [card], commit_message="bad card") == "ValueError"
api.delete_tag("org/a", tag="v1")
api.delete_branch("org/a", branch="side/line")
assert refusal(content, "config.json", "v1") == "RevisionNotFoundError"
"""

REFUSALS = """
import time
time.sleep = lambda seconds: None  # between the client's retries

def get(repo, name="model.safetensors", **kwargs):
    return refusal(api.hf_hub_download, repo, name, **kwargs)

assert get("org/none") == get("org/none", token=False) == "RepositoryNotFoundError"
assert get("org/private", token=False) == "RepositoryNotFoundError" and get("org/private") == "nothing"
assert get("org/open", "other.txt", token="wrong") == "HfHubHTTPError"
assert get("org/open") == get("org/open", token=False) == "nothing"
assert get("org/open", "none") == "RemoteEntryNotFoundError"
assert get("org/open", revision="none") == "RevisionNotFoundError"
assert get("org/gated") == get("org/gated", token=False) == "GatedRepoError"
assert get("org/gated", token="hf_of_a_reader") == "nothing"
assert refusal(api.whoami, token="wrong") == "HfHubHTTPError"
assert refusal(api.create_repo, "org/mine", token="wrong") == "HfHubHTTPError"
upload = {"path_or_fileobj": b"x", "path_in_repo": "x", "repo_id": "org/open"}
assert refusal(api.upload_file, **upload, token="wrong") == "HfHubHTTPError"
assert get("org/cut") == "OSError"
assert get("org/broken") == "LocalEntryNotFoundError"
path = api.hf_hub_download("org/hung", "model.safetensors")
assert pathlib.Path(path).read_bytes() == bytes(range(256)) * 8
from huggingface_hub.utils import get_session
assert get_session().get(sys.argv[1] + "/api/nonsense").status_code == 404
"""


def test_the_client_goes_round(hub: HubServer, tmp_path: Path) -> None:
    run_with_hub(hub, CLIENT + ROUND_TRIP, cache=tmp_path)
    assert hub.unknown == []
    assert hub.repos["org/a"].files == {
        "README.md": b"---\nlicense: apache-2.0\n---\n# Card\n",
        "model.safetensors": b"second model.safetensors",
    }
    assert len(hub.repos["org/a"].history("main")) == 5


def test_the_hub_refuses_and_fails(hub: HubServer, tmp_path: Path) -> None:
    content = {"model.safetensors": bytes(range(256)) * 8}
    for name in ("private", "open", "gated", "cut", "broken", "hung"):
        hub.create(f"org/{name}", private=name == "private", gated=name == "gated").commit(content)
    hub.readers.add("hf_of_a_reader")
    hub.repos["org/cut"].commit({"model.safetensors": b"cut" * 500})
    hub.repos["org/hung"].commit({"model.safetensors": bytes(range(256)) * 8})
    cut = hub.repos["org/cut"].find("main").files["model.safetensors"].sha256
    hub.truncate(f"/cdn/{cut}")
    hub.fail("/org/broken/resolve/*", 500)
    run_with_hub(hub, CLIENT + REFUSALS, hub.url, cache=tmp_path)
    assert hub.unknown == ["GET /api/nonsense"]


def test_a_broken_download_is_resumed(hub: HubServer, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    hub.create("org/a").commit({"model.safetensors": content, "config.json": b"{}"})
    hub.hang_up("/cdn/*")
    script = "path = api.hf_hub_download('org/a', 'model.safetensors'); print(pathlib.Path(path).stat().st_size)"
    assert run_with_hub(hub, CLIENT + script, cache=tmp_path).stdout.strip() == str(len(content))
    assert not any(request.token for request in hub.requests if request.path.startswith("/cdn/"))
    assert [request.status for request in hub.requests if request.path.startswith("/cdn/")] == [200, 200]


def test_ranges(hub: HubServer, tmp_path: Path) -> None:
    hub.create("org/a").commit({"config.json": b"0123456789"})
    script = """
from huggingface_hub import get_session, hf_hub_url
for asked in ("bytes=2-4", "bytes=7-", "bytes=8-99", "bytes=10-"):
    answer = get_session().get(hf_hub_url("org/a", "config.json"), headers={"Range": asked})
    print(answer.status_code, answer.text)
"""
    printed = run_with_hub(hub, CLIENT + script, cache=tmp_path).stdout.split()
    assert printed == ["206", "234", "206", "789", "206", "89", "416"]


def test_without_the_package_it_cannot_be_imported(hub: HubServer, tmp_path: Path) -> None:
    script = """
        import subprocess, sys
        names = ("handmim", "handmim_other", "json")
        code = f"import importlib.util as u; print(*(u.find_spec(name) is None for name in {names}))"
        print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
        import handmim
    """
    result = run_with_hub(hub, textwrap.dedent(script), package=False, cache=tmp_path, check=False)
    assert result.stdout.split() == ["True", "True", "False"]
    assert result.returncode == 1 and "No module named 'handmim'" in result.stderr
    unhidden = run_with_hub(hub, "import importlib.util as u; print(u.find_spec('handmim').name)", cache=tmp_path)
    assert unhidden.stdout.strip() == "handmim"


def test_a_script_that_fails_is_told(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_with_hub(hub, "1 / 0", cache=tmp_path)
