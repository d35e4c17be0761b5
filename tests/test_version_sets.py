"""What `.ci/run` repeats with older versions: the tests of model_files.txt with what older_versions.txt names."""

import re
import tomllib
from pathlib import Path

import pytest

from handmim import _HOME
from handmim.hub_code import code_files

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "model_files.txt"
VERSIONS = (ROOT / "tests" / "older_versions.txt").read_text().splitlines()
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Besides the files that a repository carries: how they come and go, and what is counted in them.
BESIDES = {
    "checkpoints",
    "config_format",
    "hand",
    "hand_detector",
    "hub",
    "hub_code",
    "hub_errors",
    "publishing",
    "remote_code",
    "zoo",
}


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_the_list_has_the_test_of_each_file_that_a_repository_carries() -> None:
    entries = {module for module in _HOME.values() if module not in ("hand", "errors")} | {"configuration_hiu_dmtl"}
    modules = {path.stem for path in code_files(entries)} | BESIDES
    assert "layers_handmim" in modules and "hand_model" in modules  # imports are followed
    expected = {f"tests/test_{name}.py" for name in modules if (ROOT / f"tests/test_{name}.py").is_file()}
    listed = LIST.read_text().splitlines()
    assert listed == sorted(set(listed)), "sorted, each once, no comment: pytest reads each line as an argument"
    assert expected <= set(listed), f"missing in {LIST.name}: {sorted(expected - set(listed))}"
    assert not [path for path in listed if not (ROOT / path).is_file()]


@pytest.mark.parametrize("line", VERSIONS)
def test_the_older_versions_are_exact_and_supported(line: str) -> None:
    """No URL, no hash, no range; and not below what pyproject.toml asks for."""
    name, version = re.fullmatch(r"([a-z-]+)==(\d+(?:\.\d+)+)", line).groups()
    extras = METADATA["optional-dependencies"].values()
    requirements = [requirement for group in (METADATA["dependencies"], *extras) for requirement in group]
    stated = [re.fullmatch(rf"{name}(?:>=([\d.]+))?(?:,<([\d.]+))?", text) for text in requirements]
    found = [match for match in stated if match]
    assert found, f"{name} is not required at all"
    for floor, ceiling in (match.groups() for match in found):
        assert floor is None or numbers(version) >= numbers(floor)
        assert ceiling is None or numbers(version) < numbers(ceiling)
