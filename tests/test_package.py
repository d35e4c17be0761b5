"""What the package promises as a whole: metadata, imports, what travels to the Hub, what is in the repository."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import handmim

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "handmim"
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Modules whose distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "huggingface_hub": "huggingface-hub",
    "cv2": "opencv-python-headless",
    "simdjson": "pysimdjson",
}
HUB_HELPERS = ("hand_model", "geometry", "losses", "losses_pretraining")
HUB_FILES = sorted(
    path
    for pattern in ("*_handmim", "*_hiu_dmtl", "pipeline_*", *HUB_HELPERS)
    for path in PACKAGE.glob(f"{pattern}.py")
)


def imports(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(module, relative level, whether it runs when the file is imported) of each import statement."""

    def visit(node: ast.AST, eager: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, 0, eager) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield child.module or "", child.level, eager
            else:
                optional = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try)) or (
                    isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                )
                yield from visit(child, eager and not optional)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def needed_modules(path: Path) -> set[Path]:
    """The package's files that a file imports, at its top or in a function; types alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    for_types = {id(child) for node in types for child in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            words = (node.module or "").split(".")
            if not node.level and words[0] != PACKAGE.name:
                continue
            base = (path.parents[node.level - 1] if node.level else ROOT).joinpath(*words)
            inside = [base / f"{alias.name}.py" for alias in node.names]
            files = [file for file in (base.with_suffix(".py"), *inside) if file.is_file()]
            found.update(files or [base / "__init__.py"])
    return found - {PACKAGE / "__init__.py"}  # whose names are loaded at their first use


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9_.-]+", requirement).group().lower() for requirement in requirements}


def third_party(path: Path, eager_only: bool) -> set[str]:
    tops = {module.split(".")[0] for module, level, eager in imports(path) if level == 0 and (eager or not eager_only)}
    outside = tops - set(sys.stdlib_module_names) - {"handmim"}
    return {DISTRIBUTIONS.get(name, name).lower() for name in outside}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_declared(path: Path) -> None:
    core = names(METADATA["dependencies"])
    extras = set().union(*(names(value) for value in METADATA["optional-dependencies"].values()))
    assert third_party(path, eager_only=False) <= core | extras
    allowed = core | names(METADATA["optional-dependencies"]["train"]) if "training" in path.parts else core
    assert third_party(path, eager_only=True) <= allowed


@pytest.mark.parametrize("path", HUB_FILES, ids=lambda path: path.name)
def test_hub_files_import_only_siblings_that_travel(path: Path) -> None:
    """`trust_remote_code` copies flat `from .x import y` files and nothing deeper (imports inside functions too)."""
    assert third_party(path, eager_only=False) <= names(METADATA["dependencies"])
    for module, level, _ in imports(path):
        assert not module.startswith("handmim"), f"{path.name} imports {module} absolutely"
        if level:
            assert level == 1 and module and "." not in module, f"{path.name}: from {'.' * level}{module}"


@pytest.mark.parametrize("path", sorted({*PACKAGE.glob("configuration_*.py"), *PACKAGE.glob("modeling_*.py")}), ids=str)
def test_strict_configs_keep_real_annotations(path: Path) -> None:
    assert "__future__" not in {module for module, _, _ in imports(path)}


@pytest.mark.parametrize("name", sorted(handmim.__all__))
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(handmim, name).__name__ == name


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# Ways to import the package: whole, by a public name, and from the files that import transformers themselves.
IMPORT_FORMS = (
    "import handmim",
    "from handmim import HandMIM",
    "from handmim.configuration_handmim import HandMIMConfig",
    "import handmim.modeling_handmim",
    "import handmim.pipeline_hand_mesh",
)
REGISTERED = """
from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
from handmim import HandMIMConfig
assert "hand-mesh-estimation" in PIPELINE_REGISTRY.get_supported_tasks()
assert type(AutoConfig.for_model("handmim")) is HandMIMConfig
assert HandMIMConfig in AutoModel._model_mapping
"""


def test_no_module_needs_one_that_needs_it() -> None:
    graph = {path: needed_modules(path) for path in sorted(PACKAGE.rglob("*.py"))}
    assert PACKAGE / "geometry.py" in graph[PACKAGE / "hand_model.py"]
    assert PACKAGE / "commands.py" in graph[PACKAGE / "cli.py"]  # an import in a function
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_each_import_can_be_the_first_of_the_package() -> None:
    """Torch and transformers stay loaded, which is quick; the package is forgotten in between."""
    code = f"""
import sys
import transformers.pipelines
forms, registered = {IMPORT_FORMS!r}, {REGISTERED!r}
for form in forms:
    for name in [name for name in sys.modules if name.split(".")[0] == "handmim"]:
        del sys.modules[name]
    try:
        exec(form + registered, {{}})
    except Exception as error:
        raise RuntimeError(form) from error
print(len(forms))
"""
    assert int(run_python(code).split()[-1]) == len(IMPORT_FORMS)


def test_importing_handmim_registers_and_leaves_the_networks_for_later() -> None:
    code = f"""
import sys, handmim
assert not {{"timm", "trimesh", "mediapipe", "handmim.modeling_handmim"}} & set(sys.modules)
{REGISTERED}
config = HandMIMConfig.from_size("tiny", num_hidden_layers=3, feature_layers=[3])
assert type(AutoModel.from_config(config)) is handmim.HandMIMForMeshEstimation
config.architectures = ["HandMIMModel"]
config.num_hidden_layers, config.feature_layers = 1, [1]
assert type(AutoModel.from_config(config)) is handmim.HandMIMModel
assert set(handmim.__all__) <= set(dir(handmim))
"""
    run_python(code)


@pytest.fixture()
def command(tmp_path: Path) -> Path:
    """The console script as pip writes it, telling at its end which heavy modules came."""
    script = tmp_path / "bin" / "handmim"
    script.parent.mkdir()
    script.write_text(f"""
import atexit, sys
sys.path.insert(0, {str(ROOT)!r})
heavy = ("torch", "transformers", "timm")
atexit.register(lambda: print("imported:", *(name for name in heavy if name in sys.modules)))
from handmim.cli import main
if __name__ == "__main__":
    sys.exit(main())
""")
    return script


def test_the_command_without_a_model_imports_nothing_heavy(command: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    for arguments, code in ((["--help"], 0), (["predict", "--hand", "middle", "x"], 2), (["predict", str(bad)], 1)):
        done = subprocess.run([sys.executable, command, *arguments], capture_output=True, text=True, timeout=900)
        assert done.returncode == code and done.stdout.splitlines()[-1] == "imported:", done.stdout + done.stderr


def test_the_command_registers_for_its_model(command: Path, tiny_checkpoint: Path, photo: Path) -> None:
    options = ["--model", tiny_checkpoint, "--device", "cpu", "--out", photo.parent / "out", "--box", "9,9,60,60"]
    done = subprocess.run([sys.executable, command, "predict", photo, *options], capture_output=True, text=True)
    assert done.returncode == 0 and (photo.parent / "out" / "photo.json").is_file(), done.stderr


def test_the_command_registers_for_the_start_of_a_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """All of a run but its steps, which draw hundreds of backgrounds first."""
    recipe = {"model": {"checkpoint": str(tiny_checkpoint)}, "data": [], "training": {}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    code = """
import sys
arguments, sys.argv = sys.argv[1:], ["handmim"]
from handmim.cli import main
from handmim.training import finetuning
finetuning.finetune = lambda recipe, out: finetuning.build_processor(recipe["model"], 64, {})
sys.exit(main(["finetune", *arguments]))
"""
    arguments = [tmp_path / "recipe.yaml", "--out", tmp_path / "run"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_version_is_that_of_the_metadata() -> None:
    assert METADATA["version"] == handmim.__version__


def test_package_data_exists() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "assets" / "open_hand.safetensors").is_file()
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")


def test_no_licensed_hand_model_is_near() -> None:
    licensed = re.compile(r"(mano|smpl).*\.(pkl|npz|pth|safetensors)$", re.IGNORECASE)
    found = [path for path in PACKAGE.rglob("*") if licensed.search(path.name)]
    assert found == []
