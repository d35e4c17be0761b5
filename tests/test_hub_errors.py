"""What a failure of the Hub, of its cache or of a name says: one sentence with the repository and what to do."""

import errno
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, run_with_hub
from PIL import Image

from handmim import ModelError
from handmim.commands import hub_options
from handmim.config_format import FORMAT_VERSION
from handmim.errors import InputError
from handmim.hub_errors import checkpoint_errors

# Case -> arguments of HandMIM.from_pretrained, and what the message must match.
NOT_LOADED = "^no checkpoint could be loaded from '{name}': "
CASES: dict[str, tuple[str, dict, str]] = {
    "no repository": (
        "org/handmim-base-freehand", {}, "no such repository that you may read.*hf auth login.*handmim-base-freihand"
    ),
    "no repository, nobody": ("org/none", {"token": False}, "no such repository that you may read"),
    "private": ("org/private", {"token": False}, "if it is private log in with `hf auth login` or set HF_TOKEN"),
    "wrong token": ("org/good", {"token": "wrong"}, "refuses the token.*hf auth login.*HF_TOKEN"),
    "gated": ("org/gated", {}, "access is restricted; ask for it on http.*/org/gated"),
    "gated, nobody": ("org/gated", {"token": False}, "access is restricted"),
    "forbidden": ("org/forbidden", {}, "the token may not read it"),
    "down": ("org/down", {}, "the Hub answers 503.*try again later"),
    "no revision": ("org/good", {"revision": "v9"}, "no revision 'v9'; http.*/org/good/commits/main"),
    "no config": ("org/empty", {}, r"no config\.json"),
    "no weights": ("org/bare", {}, r"no weights \(model\.safetensors\)"),
    "cut short": ("org/cut", {}, "cut short; try again, with force_download=True"),
    "processor down": ("org/half", {}, "the Hub answers 500"),
    "not in the cache": ("org/other", {"local_files_only": True}, "does not have it, and local_files_only forbids"),
    "no folder": ("./nowhere", {}, "there is no such folder$"),
    "no path": ("a/b/c", {}, "there is no such folder$"),
    "no name": ("org/na me", {}, "ORG/NAME"),
    "a file": ("script.py", {}, "it is a file; name the folder"),
}  # fmt: skip
# Damage and newer files speak of the checkpoint otherwise.
DAMAGED: dict[str, tuple[str, dict, str]] = {
    "weights": ("org/damaged", {}, "^the checkpoint org/damaged is damaged .*; remove .*models--org--damaged or"),
    "json": ("org/json", {}, r"^the checkpoint org/json has a damaged config\.json; remove .*models--org--json or"),
    "list": ("org/list", {}, r"^the checkpoint org/list has a damaged config\.json; remove"),
    "field": ("org/field", {}, "^the checkpoint org/field has a config.json that does not fit: .*hand_model"),
    "newer": ("org/newer", {}, r"config\.json of org/newer has format version .* pip install -U handmim$"),
    "folder": ("org/folder", {}, "^the checkpoint org/folder is damaged .*; download it again$"),
}
COMMANDS = {
    "predict": ["predict", "{photo}", "--model", "org/none"],
    "predict revision": ["predict", "{photo}", "--model", "org/good", "--revision", "v9"],
    "features": ["features", "{photo}", "--model", "org/none"],
    "export": ["export", "org/none", "--onnx", "out"],
    "convert": ["convert", "org/none", "--to", "timm", "--out", "out.safetensors"],
}
SCRIPT = """
import contextlib, io, json, sys, time
time.sleep = lambda seconds: None  # between the client's retries
cases, commands = json.loads(sys.argv[1]), json.loads(sys.argv[2])
from handmim import HandMIM, ModelError
from handmim.cli import main

said = {}
for key, (name, options, _) in cases.items():
    try:
        HandMIM.from_pretrained(name, **options)
    except ModelError as error:
        said[key] = str(error)
for key, arguments in commands.items():
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        code = main(arguments)
    said[key] = f"{code} {stream.getvalue()}"
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What each case says, all of them in one process."""
    cache = tmp_path_factory.mktemp("cache")
    files = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
    weights, config = files["model.safetensors"], json.loads(files["config.json"])
    with HubServer() as hub:
        for name in ("good", "other", "forbidden", "down", "half", "cut"):
            hub.create(f"org/{name}").commit(files)
        hub.create("org/private", private=True).commit(files)
        hub.create("org/gated", gated=True).commit(files)
        hub.create("org/empty").commit({"README.md": b"# Nothing\n"})
        hub.create("org/bare").commit({"config.json": files["config.json"]})
        cut = hub.repos["org/cut"].commit({"model.safetensors": weights + b" "})
        hub.truncate(f"/cdn/{hub.repos['org/cut'].find(cut).files['model.safetensors'].sha256}")
        hub.create("org/damaged").commit(files | {"model.safetensors": weights[: len(weights) // 2]})
        hub.create("org/json").commit(files | {"config.json": b"{"})
        hub.create("org/list").commit(files | {"config.json": b"[]"})
        for name, change in (("field", {"hand_model": "smplh"}), ("newer", {"format_version": FORMAT_VERSION + 1})):
            hub.create(f"org/{name}").commit(files | {"config.json": json.dumps(config | change).encode()})
        hub.fail("/org/forbidden/resolve/*", 403)
        hub.fail("/org/down/resolve/*", 503)
        hub.fail("/org/half/resolve/*/p*rocessor_config.json", 500)
        (cache / "org/folder").mkdir(parents=True)
        for name, content in files.items():
            (cache / "org/folder" / name).write_bytes(content[: len(content) // 2] if name[0] == "m" else content)
        photo = cache / "photo.png"
        photo.write_bytes(_photo())
        commands = {key: [part.format(photo=photo) for part in parts] for key, parts in COMMANDS.items()}
        done = run_with_hub(hub, SCRIPT, json.dumps(CASES | DAMAGED), json.dumps(commands), cache=cache)
        assert hub.unknown == []
        assert not any("folder" in request.path for request in hub.requests)
    yield json.loads(done.stdout.splitlines()[-1])


def _photo() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_it_names_the_repository_and_what_to_do(case: str, said: dict[str, str]) -> None:
    name, _, pattern = CASES[case]
    assert re.search(NOT_LOADED.format(name=re.escape(name)), said[case]), said[case]
    assert re.search(pattern, said[case]) and "\n" not in said[case], said[case]


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_names_what_to_remove(case: str, said: dict[str, str]) -> None:
    assert re.search(DAMAGED[case][2], said[case]) and "\n" not in said[case], said[case]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_say_it_on_one_line(command: str, said: dict[str, str]) -> None:
    name = (
        "org/good': the repository has no revision 'v9'" if "revision" in command else "org/none': the Hub has no such"
    )
    lines = [line for line in said[command].splitlines() if "handmim: error:" in line]
    assert said[command].startswith("1 ") and len(lines) == 1, said[command]
    assert re.search(f"error: no checkpoint could be loaded from '{name}", lines[0])


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space is left in .*HF_HOME"), (errno.EROFS, "cannot be written"), (errno.EACCES, "may not be")],
)
def test_a_full_disk(number: int, message: str) -> None:
    """Also where the client's error is wrapped in another."""
    for wrapped in (False, True):
        with pytest.raises(ModelError, match=f"'org/name': .*{message}"), checkpoint_errors("org/name"):
            try:
                raise OSError(number, "so said the disk", "/cache/blob")
            except OSError as error:
                if not wrapped:
                    raise
                raise OSError("something of a loader") from error


def test_a_mistake_in_the_call_is_no_damage(tiny_checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="unexpected keyword") as caught, checkpoint_errors(tiny_checkpoint):
        raise TypeError("load() got an unexpected keyword argument 'revison'")
    assert "damaged" not in str(caught.value)
    with pytest.raises(AttributeError), checkpoint_errors(tiny_checkpoint):
        raise AttributeError("a fault of the package")


def test_revisions_are_the_hubs(tiny_checkpoint: Path) -> None:
    assert hub_options("org/name", None) == {} and hub_options("org/name", "v1") == {"revision": "v1"}
    for model in (None, str(tiny_checkpoint), "hiu-dmtl-tiny-open"):
        with pytest.raises(InputError, match="--revision is for a checkpoint on the Hub, got 'v1'"):
            hub_options(model, "v1")
