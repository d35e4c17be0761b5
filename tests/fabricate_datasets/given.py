"""A data set of samples that a test makes."""

from collections.abc import Sequence
from pathlib import Path

from handmim.training.datasets.sample import HandReader, HandSample, Part


class ListReader(HandReader):
    """The samples of a list; an exception in their place is raised."""

    name, title, homepage, splits, hand_model = "list", "A list", "", ("all",), "open"

    def __init__(self, samples: Sequence[HandSample | Exception], root: Path = Path(".")) -> None:
        super().__init__(root)
        self.samples = samples

    @classmethod
    def contents(cls, root: Path) -> list[Part]:
        return []

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> HandSample:
        sample = self.samples[index]
        if isinstance(sample, Exception):
            raise sample
        return sample
