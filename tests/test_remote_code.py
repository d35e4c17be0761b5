"""A repository with code, in a process that has no package: models, processor, pipeline, and where the hand is found.

What the same repository gives to those who have the package is tested here too: their own classes, unasked.
"""

import sys
from pathlib import Path

import pytest
import torch
from hub_server import HubServer, run_with_hub
from test_package import METADATA, names
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from handmim import (
    HandDetectorConfig,
    HandDetectorForObjectDetection,
    HandMIMConfig,
    HandMIMForMeshEstimation,
    HandMIMForPreTraining,
    HandMIMModel,
    HIUDMTLConfig,
    HIUDMTLForHandUnderstanding,
)
from handmim.hub_code import code_files, copy_code
from handmim.open_hand_file import code_repository
from handmim.publishing import build_folder

ROOT = Path(__file__).parents[1]
PIXELS = "torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)"
SHOWN = ("vertices", "last_hidden_state", "logits")  # what an output is compared by
HIU = {"image_size": 64, "hidden_size": 16, "num_stacks": 1, "encoder_depth": 1, "encoder_levels": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Folders as they are published, each with what its model gives: mesh, backbone, hiu, detector and mano."""
    root = tmp_path_factory.mktemp("published")
    mesh = HandMIMForMeshEstimation.from_pretrained(tiny_checkpoint)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {"mesh": mesh, "backbone": mesh.backbone, "hiu": HIUDMTLForHandUnderstanding(HIUDMTLConfig(**HIU))}
        models["detector"] = HandDetectorForObjectDetection(HandDetectorConfig(image_size=64))
    for name, model in models.items():
        model.save_pretrained(root / "saved" / name)
        build_folder(root / "saved" / name, root / name, facts=None)
        pixels = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
        with torch.no_grad():
            output = model.eval()(pixels)
        torch.save(next(output[name] for name in SHOWN if name in output), root / f"{name}.pt")
    mesh.config.hand_model = "mano"
    mesh.save_pretrained(root / "saved" / "mano")
    build_folder(root / "saved" / "mano", root / "mano", facts=None)
    return root


@pytest.fixture()
def filled_hub(hub: HubServer, folders: Path) -> HubServer:
    for name in ("mesh", "backbone", "hiu", "detector", "mano"):
        files = {path.name: path.read_bytes() for path in (folders / name).iterdir()}
        hub.create(f"org/my.hand-{name}").commit(files)
    return hub


WITHOUT = f"""
import sys, numpy as np, torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

root, prefix = sys.argv[1:]
picture = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
trusted = dict(trust_remote_code=True)

pipe = pipeline("hand-mesh-estimation", model=prefix + "mesh", detector="whole-image", **trusted)
hands = pipe(picture)
assert hands[0]["vertices"].shape == (1649, 3) and np.isfinite(hands[0]["vertices"]).all()
for name in ("mesh", "backbone", "hiu", "detector"):
    config = AutoConfig.from_pretrained(prefix + name, **trusted)
    processor = AutoImageProcessor.from_pretrained(prefix + name, **trusted)
    model = AutoModel.from_pretrained(prefix + name, **trusted).eval()
    for thing in (config, processor, model):
        assert type(thing).__module__.startswith("transformers_modules."), type(thing)
    with torch.no_grad():
        output = model({PIXELS})
    expected = torch.load(f"{{root}}/{{name}}.pt")
    given = next(output[name] for name in {SHOWN} if name in output)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained("kept/" + name)  # and from there once more, with all of its classes
    processor.save_pretrained("kept/" + name)
    AutoImageProcessor.from_pretrained("kept/" + name, **trusted)
    with torch.no_grad():
        output = AutoModel.from_pretrained("kept/" + name, **trusted).eval()({PIXELS})
    torch.testing.assert_close(next(output[name] for name in {SHOWN} if name in output), given)
kept = pipeline("hand-mesh-estimation", model="kept/mesh", detector="whole-image", **trusted)(picture)
np.testing.assert_allclose(kept[0]["vertices"], hands[0]["vertices"], atol=1e-6)
fresh = AutoModel.from_config(AutoConfig.from_pretrained(prefix + "mesh", **trusted), **trusted)
torch.testing.assert_close(fresh.hand_model.template, pipe.model.hand_model.template)
fresh.save_pretrained("saved")
again = AutoModel.from_pretrained("saved", **trusted)
torch.testing.assert_close(again.hand_model.template, pipe.model.hand_model.template)
mano = AutoModel.from_pretrained(prefix + "mano", **trusted).eval()
try:
    mano({PIXELS})
except FileNotFoundError as error:
    assert "handmim mano install MANO_RIGHT.pkl" in str(error) and "mano.is.tue.mpg.de" in str(error), error
else:
    raise SystemExit("no MANO, and no error")
assert "handmim" not in sys.modules
"""


def test_a_local_folder_without_the_package(hub: HubServer, folders: Path, tmp_path: Path) -> None:
    run_with_hub(hub, WITHOUT, folders, f"{folders}/", package=False, offline=True, cache=tmp_path)


@pytest.mark.slow
def test_the_hub_without_the_package_and_then_without_a_network(
    filled_hub: HubServer, folders: Path, tmp_path: Path
) -> None:
    run_with_hub(filled_hub, WITHOUT, folders, "org/my.hand-", package=False, cache=tmp_path)
    assert not filled_hub.unknown
    asked = [request.path for request in filled_hub.requests if request.path.endswith("open_hand.safetensors")]
    heads = {commit for commit in filled_hub.repos["org/my.hand-mesh"].commits}
    assert asked and all(any(commit in path for commit in heads) for path in asked if "my.hand-mesh" in path)
    filled_hub.stop()
    run_with_hub(filled_hub, WITHOUT, folders, "org/my.hand-", package=False, offline=True, cache=tmp_path)


ELSEWHERE = """
import sys
from transformers import AutoModel
model = AutoModel.from_pretrained("org/my.hand-mesh", trust_remote_code=True, cache_dir="there", token=sys.argv[1])
assert model.hand_model.template.abs().sum() > 0
"""


@pytest.mark.slow
def test_a_private_repository_and_another_cache(filled_hub: HubServer, tmp_path: Path) -> None:
    """The hand's file is asked for with the token and the cache that `from_pretrained` was given."""
    filled_hub.repos["org/my.hand-mesh"].private = True
    arguments = {"package": False, "cache": tmp_path, "token": None}
    run_with_hub(filled_hub, ELSEWHERE, filled_hub.token, **arguments)
    assert list((tmp_path / "there").rglob("open_hand.safetensors")) and not (tmp_path / "hub").exists()


WITH = """
import sys
import handmim
from transformers import AutoImageProcessor, AutoModel, pipeline

prefix = sys.argv[1]
for options in ({}, {"trust_remote_code": True}, {"trust_remote_code": False}):
    pipe = pipeline("hand-mesh-estimation", model=prefix + "mesh", **options)
    assert type(pipe) is handmim.HandMeshPipeline and type(pipe.model) is handmim.HandMIMForMeshEstimation
    assert type(pipe.image_processor) is handmim.HandMIMImageProcessor
    assert type(AutoModel.from_pretrained(prefix + "hiu", **options)) is handmim.HIUDMTLForHandUnderstanding
    assert type(AutoModel.from_pretrained(prefix + "backbone", **options)) is handmim.HandMIMModel
assert type(handmim.HandMIM.from_pretrained(prefix + "mesh").model) is handmim.HandMIMForMeshEstimation
assert not [name for name in sys.modules if name.startswith("transformers_modules.")]
"""


def test_the_package_needs_no_trust(hub: HubServer, folders: Path, tmp_path: Path) -> None:
    run_with_hub(hub, WITH, f"{folders}/", offline=True, cache=tmp_path)


def test_the_blocker_blocks(hub: HubServer, tmp_path: Path) -> None:
    """The package is not found where it is hidden, and found where it is not."""
    script = "from importlib.util import find_spec; import sys; sys.exit(find_spec('handmim') is None)"
    assert run_with_hub(hub, script, package=False, cache=tmp_path, check=False).returncode != 0
    assert run_with_hub(hub, script, package=True, cache=tmp_path, check=False).returncode == 0


FILES = code_files({"modeling_pretraining_handmim", "modeling_handmim", "modeling_hiu_dmtl", "pipeline_hand_mesh"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_carried_files_import_declared_packages_only(path: Path) -> None:
    """transformers refuses to load code if a module that it imports is not installed, also inside functions."""
    allowed = names(METADATA["dependencies"]) | {"pil", "huggingface_hub"} | set(sys.stdlib_module_names)
    assert {name.lower() for name in get_imports(path)} <= allowed
    assert all((path.parent / f"{name}.py").is_file() for name in get_relative_imports(path))


def test_each_kind_of_checkpoint_carries_its_own_code(tmp_path: Path) -> None:
    kinds = {
        HandMIMModel: ("handmim", {"modeling_handmim.py"}, {"pipeline_hand_mesh.py", "open_hand.safetensors"}),
        HandMIMForPreTraining: ("handmim", {"modeling_pretraining_handmim.py"}, {"pipeline_hand_mesh.py"}),
        HIUDMTLForHandUnderstanding: ("hiu_dmtl", {"modeling_hiu_dmtl.py", "silhouette.py"}, {"modeling_handmim.py"}),
    }
    for kind, (family, there, not_there) in kinds.items():
        folder = tmp_path / kind.__name__
        folder.mkdir()
        copy_code({"model_type": family, "architectures": [kind.__name__], "hand_model": "open"}, folder)
        files = {path.name for path in folder.iterdir()}
        assert there | {"hub_classes.py", "image_processing_handmim.py"} <= files and not files & not_there
        compile((folder / "hub_classes.py").read_text(), "hub_classes.py", "exec")


def test_the_commit_of_the_code_is_known_from_its_place() -> None:
    commit = "0123456789" * 4
    base = Path("modules") / "transformers_modules"
    found = code_repository(base / "_1org" / "my_dot_hand_hyphen_mesh" / commit)
    assert found == ("1org/my.hand-mesh", commit)
    assert code_repository(base / "folder" / "0123456789abcdef") is None
    assert code_repository(ROOT / "handmim") is None


def test_the_packages_configuration_forgets_the_repositorys_pipeline() -> None:
    for kind in (HandMIMConfig, HIUDMTLConfig):
        assert not hasattr(kind(custom_pipelines={"hand-mesh-estimation": {}}), "custom_pipelines")
