"""What the package promises as a whole: metadata, imports, what travels to the Hub, what is in the repository."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
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
}
HUB_HELPERS = ("hand_model", "geometry", "losses")
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(handmim.__all__))
def test_each_public_name_can_be_the_first_import(name: str) -> None:
    run_python(f"from handmim import {name}")


def test_a_config_can_be_the_first_import() -> None:
    """The quick one of the test above: importing transformers registers the class whose file is importing it."""
    assert run_python("from handmim import HandMIMConfig; print(HandMIMConfig.model_type)").strip() == "handmim"


def test_importing_handmim_is_cheap() -> None:
    heavy = run_python("import sys, handmim; print([m for m in ('torch', 'transformers', 'timm') if m in sys.modules])")
    assert heavy.strip() == "[]"


def test_the_help_text_imports_nothing_heavy() -> None:
    code = """
import sys
from handmim.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
print([m for m in ("torch", "transformers", "timm", "numpy") if m in sys.modules])
"""
    assert run_python(code).strip().splitlines()[-1] == "[]"


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
