"""What the README shows runs as it stands, but for what it asks of the Hub."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from handmim import HandMeshPipeline
from handmim.cli import build_parser
from handmim.synthesis import generate

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)\n```", README, re.S)


def test_the_blocks_of_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, as a reader would type them; `photo.jpg` is a rendered hand."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("handmim.mediapipe_detector.find_spec", lambda name: None)
    Image.fromarray(generate(5, range(1, 2), size=192, variety="plain").images[0].numpy()).save("photo.jpg")
    names: dict = {}
    here = [block for block in BLOCKS if "me/my-hand" not in block]
    assert len(here) == len(BLOCKS) - 2 == 4
    for block in here:
        exec(compile(block.replace('model="path/to/checkpoint"', ""), "README", "exec"), names)
    assert "(1649, 3)" in capsys.readouterr().out
    assert Path("hand.glb").stat().st_size > 10_000 and Path("overlay.png").is_file()
    assert isinstance(names["pipe"], HandMeshPipeline) and len(names["hands"]) == 1
    assert names["posed"].vertices.shape == (1, 1649, 3)


def commands() -> list[list[str]]:
    """The words of each `handmim` command in the blocks for a shell."""
    blocks = re.findall(r"```bash\n(.*?)\n```", README, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [words[1:] for words in parts if words[:1] == ["handmim"]]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_its_commands_have_these_options(words: list[str]) -> None:
    assert build_parser().parse_args(words).run


def test_files_and_folders_of_the_package_that_it_names_are_there() -> None:
    root = Path(__file__).parents[1]
    named = set(re.findall(r"`((?:handmim|tests|conversion|model_cards|hub_configs)/[\w./-]+)`", README))
    assert named and not [name for name in named if not (root / name).exists()]
