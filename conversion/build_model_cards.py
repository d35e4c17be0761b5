"""Writes `model_cards/<checkpoint>.md` for every checkpoint of the zoo whose weights are here.

    python conversion/build_model_cards.py [--out FOLDER]

What only people know stands in `model_cards/sources/<checkpoint>/notes.md`; figures come from the JSON files beside it,
which `handmim evaluate` (`--report`) and, with `--out`, `real_photos.py` and `hand_detection.py` of `tests/benchmarks/`
wrote. A test rebuilds the cards.
"""

import argparse
from pathlib import Path

from handmim.atomic_files import atomic_file
from handmim.model_card import CardError, CardFacts, card_text, collect_facts
from handmim.zoo import zoo

REPOSITORY = Path(__file__).resolve().parents[1]
CARDS = REPOSITORY / "model_cards"
SOURCES = CARDS / "sources"
WEIGHTS = REPOSITORY / "handmim" / "assets"
NOTES = "notes.md"


def names() -> list[str]:
    """Checkpoints that have weights in this repository, and therefore a card."""
    return [name for name in zoo() if (WEIGHTS / name / "model.safetensors").is_file()]


def facts(name: str) -> CardFacts:
    """What the card of a checkpoint is made from.

    Raises:
        CardError: There are no notes.
    """
    folder = SOURCES / name
    if not (folder / NOTES).is_file():
        raise CardError(f"{folder} has no {NOTES}; write down what only people know about {name}")
    return collect_facts(WEIGHTS / name, reports=sorted(folder.glob("*.json")), notes=folder / NOTES)


def write_cards(out: Path) -> list[Path]:
    """Writes the cards -> their files."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in names():
        text = card_text(facts(name))
        written.append(out / f"{name}.md")
        with atomic_file(written[-1]) as file:
            file.write(text.encode())
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CARDS, help="default: model_cards")
    for path in write_cards(parser.parse_args().out):
        print(path)


if __name__ == "__main__":
    main()
