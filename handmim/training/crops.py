"""`handmim crops`: hand crops out of a pile of photos, with a manifest; an interrupted run goes on where it stopped.

The folder that is written holds

* `ab/NAME-abcdef01.0.jpg`, ...: square crops, in folders by hash so that none grows too large;
* `sources.jsonl`: the settings, then one line a photo that is done: what became of it, and its crops; of a photo that
  could not be read and was looked at again, the last line counts;
* `manifest.jsonl`: one line a crop: file, source, box (xyxy, pixels of the upright photo), side, score, size (pixels).

A line also tells size, time and checksum of its photo (`stamp_of`): another one of the same name is refused, where it
would be passed over as done. Lines without them, of older versions, tell by the name alone.

A photo's line is written after its crops are complete. A run that was killed in between makes those again, under the
same names. The manifest is made from the lines when a run ends, also by an error, Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..atomic_files import atomic_file
from ..detection import GivenBoxes, HandDetector, resolve_detector
from ..errors import DataError, ImageError, InputError
from ..hand_boxes import Detection
from ..images import LoadedImage, load_image
from .datasets.boxes import box_side
from .datasets.files import load_lines
from .datasets.images import MANIFEST, MAX_MANIFEST_BYTES, cut_square, find_pictures, parse_record

JOURNAL = "sources.jsonl"
MAX_SETTINGS_BYTES = 1 << 16  # of the journal's first line
JPEG_QUALITY = 95
NAMED = 3  # of the sources without a photo
CROPPED, UNREADABLE, NO_HAND, TOO_SMALL = "cropped", "unreadable", "no hand", "too small"


@dataclass(frozen=True)
class CropSettings:
    """What makes the crops of a folder; a run goes on only with those it began with.

    Args:
        detector: Its name, or "boxes" where they are given.
        size: Largest side of a crop, pixels; hands that have fewer pixels are not enlarged.
        box_scale: Side of the crop over the longer side of the hand's box.
        min_side: Hands whose box is smaller are left out, pixels of the photo.
        boxes: SHA-256 of the file that gives the boxes, 16 hexadecimal digits; None where a detector finds them.

    Raises:
        InputError: A value out of range.
    """

    detector: str
    size: int = 256
    box_scale: float = 1.5
    min_side: int = 32
    boxes: str | None = None

    def __post_init__(self) -> None:
        if self.size < 16:
            raise InputError(f"--size must be at least 16 px, got {self.size}")
        if not 0.5 <= self.box_scale <= 10:
            raise InputError(f"--box-scale must be in [0.5, 10], got {self.box_scale}")

    def as_json(self) -> dict[str, Any]:
        """As they stand in the journal: without boxes as before there was such a setting."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass
class Tally:
    """What became of the photos of a run.

    Attributes:
        photos: By outcome.
        crops: How many were written.
        small: Hands that were too small, also of photos that have others.
        before: Photos that an earlier run had done.
    """

    photos: Counter[str] = field(default_factory=Counter)
    crops: int = 0
    small: int = 0
    before: int = 0

    def __str__(self) -> str:
        done = sum(self.photos.values())
        skipped = ", ".join(f"{self.photos[name]} {name}" for name in (UNREADABLE, NO_HAND, TOO_SMALL))
        small = f" ({self.small} hands too small)" if self.small else ""
        before = f"; {self.before} photos were done before" if self.before else ""
        return f"{done} photos: {self.crops} crops{small}; photos skipped: {skipped}{before}"


def run_crops(args: argparse.Namespace) -> int:
    """The command: 0 if the folder holds crops in the end."""
    from tqdm import tqdm

    photos = list_photos(args.photos, args.out)
    boxes = None if args.boxes is None else read_boxes(args.boxes)
    detector = resolve_detector(args.detector) if boxes is None else None
    name = "boxes" if detector is None else str(getattr(detector, "name", type(detector).__name__))
    if detector is not None:
        reason = getattr(detector, "reason", None)
        print(f"hands are looked for by {name}{f' ({reason})' if reason else ''}", file=sys.stderr)
    checksum = None if boxes is None else checksum_of(args.boxes)
    folder = CropFolder(args.out, CropSettings(name, args.size, args.box_scale, args.min_side, checksum))
    check_same_photos(folder, photos)
    tally = Tally()
    with orderly_end(), folder, tqdm(total=len(photos), unit="photo", file=sys.stderr, disable=None) as bar:
        for source, path in photos.items():
            if folder.is_done(source):
                tally.before += 1
            else:
                found = detector if boxes is None else GivenHands(boxes.get(source, []))
                outcome = crop_photo(folder, source, path, found, tally)
                if outcome == UNREADABLE:
                    bar.write(f"skipped: {folder.done[source]['reason']}", file=sys.stderr)
            bar.set_postfix_str(f"{tally.crops} crops, {sum(tally.photos.values()) - tally.photos[CROPPED]} skipped")
            bar.update()
    total = sum(len(record["crops"]) for record in folder.done.values())
    print(f"{tally}; {args.out} holds {total} crops{without_photo(boxes or (), photos)}")
    return 0 if total else 1


@contextmanager
def orderly_end() -> Iterator[None]:
    """SIGTERM, by which schedulers and containers end a run, leaves the block as an exit with code 143, 128 + 15.

    It would end the process at once otherwise, without the manifest.
    """
    if threading.current_thread() is not threading.main_thread():  # Python admits no handler there
        yield
        return

    def leave(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the manifest short
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def without_photo(sources: Iterable[str], photos: Mapping[str, Path]) -> str:
    """Which sources of a file of boxes are no photo's name, for the end of the last message; "" if all are."""
    missing = [source for source in sources if source not in photos]
    if not missing:
        return ""
    names = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
    return f"; {len(missing)} sources of --boxes match no photo: {names} (photos are called as {next(iter(photos))})"


def list_photos(arguments: Iterable[str], out: Path) -> dict[str, Path]:
    """Name -> file of the photos: files, and all pictures below folders (named from the folder's own name on).

    Folders of crops below them are left out: `out`, and those of earlier runs.

    Args:
        arguments: Files and folders.
        out: Where the crops will be written.

    Raises:
        DataError: Nothing is found, a folder is one of crops, or two photos share a name.
    """
    photos: dict[str, Path] = {}
    target = Path(out).resolve()
    for argument in map(Path, arguments):
        if argument.is_dir():
            if argument.resolve() == target:
                raise DataError(f"--out {out} is the folder of the photos; give another, which may lie below it")
            if holds_crops(argument):
                raise DataError(f"{argument} holds crops ({JOURNAL}); give the photos that they were cut out of")
            top = argument.resolve().name
            pictures = find_pictures(argument, lambda folder: folder.resolve() == target or holds_crops(folder))
            found = {f"{top}/{name}": argument / name for name in pictures}
        elif argument.is_file():
            found = {argument.name: argument}
        else:
            raise DataError(f"{argument} does not exist; give photos or folders of photos")
        for name, path in found.items():
            if name in photos and photos[name].resolve() != path.resolve():
                raise DataError(f"{photos[name]} and {path} would both be called {name}; give the folder above both")
            photos[name] = path
    if not photos:
        raise DataError("no photo was found; give photos or folders of photos")
    return photos


def holds_crops(folder: Path) -> bool:
    """Whether this command has written into a folder: its journal begins with settings."""
    try:
        with (folder / JOURNAL).open("rb") as file:
            first = json.loads(file.readline(MAX_SETTINGS_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "settings" in first


def check_same_photos(folder: CropFolder, photos: Mapping[str, Path]) -> None:
    """Raises a DataError if a folder holds crops of another photo under the name of one of these."""
    for source, path in photos.items():
        if folder.is_done(source) and not is_same_photo(path, folder.done[source].get("photo")):
            raise DataError(
                f"{path} and another photo, whose crops are in {folder.root} already, would both be called {source}; "
                "give the folder above both, or this one (also if it was changed since) an --out of its own"
            )


def is_same_photo(path: Path, known: Any) -> bool:
    """Whether a file is the photo that a line of the journal tells of; where it was copied or touched, by its content.

    Args:
        path: The file.
        known: See `stamp_of`; of a line of an older version None.
    """
    if not isinstance(known, dict):
        return True
    state = path.stat()
    if state.st_size != known.get("bytes"):
        return False
    return state.st_mtime_ns == known.get("modified") or checksum_of(path) == known.get("sha256")


def stamp_of(path: Path) -> dict[str, Any]:
    """What tells a photo from another one: bytes, time of its last change (ns), SHA-256 (16 hexadecimal digits)."""
    state = path.stat()
    return {"bytes": state.st_size, "modified": state.st_mtime_ns, "sha256": checksum_of(path)}


def checksum_of(path: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_boxes(path: Path) -> dict[str, list[Detection]]:
    """Hands by photo, from lines such as {"source": NAME, "box": [x0, y0, x1, y1], "side": "left", "score": 0.9}.

    Raises:
        DataError: The file or a line is not as it should be.
    """
    hands: dict[str, list[Detection]] = {}
    for number, line in enumerate(load_lines(path, MAX_MANIFEST_BYTES), 1):
        place = f"{path}, line {number}"
        record = parse_record(line, place, {"source": str, "box": list})
        try:
            given = GivenBoxes([record["box"]], record.get("side"))
            score = read_score(record.get("score"))
            box_side(given.boxes[0])
        except (InputError, DataError, TypeError, ValueError) as error:
            raise DataError(f"{place}: {error}") from error
        hands.setdefault(record["source"], []).append(Detection(given.boxes[0], given.handedness[0], score))
    return hands


def read_score(value: Any) -> float:
    """The score of a given box, 1 where there is none.

    Raises:
        DataError: It is no number in [0, 1].
    """
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"score must be a number in [0, 1], got {value!r:.80}")
    return float(value)


class GivenHands:
    """The hands that a file lists for one photo."""

    name, refine = "boxes", False

    def __init__(self, hands: list[Detection]) -> None:
        self.hands = hands

    def detect(self, image: np.ndarray) -> list[Detection]:
        """The listed ones, whatever the picture."""
        return self.hands


def crop_photo(folder: CropFolder, source: str, path: Path, detector: HandDetector, tally: Tally) -> str:
    """Write the crops of one photo and its line in the journal.

    Returns:
        What became of the photo.

    Raises:
        OSError: The folder cannot be written to.
    """
    record: dict[str, Any] = {"source": source, "outcome": NO_HAND, "crops": []}
    try:
        record["photo"] = stamp_of(path)
        image = load_image(path)
    except (ImageError, OSError) as error:
        record |= {"outcome": UNREADABLE, "reason": str(error)}
    else:
        # A box that is only the start of a search is cut out as it is.
        scale = 1.0 if getattr(detector, "refine", False) else folder.settings.box_scale
        for hand in detector.detect(image.pixels):
            crop = cut_hand(image, hand, scale, folder.settings)
            if crop is None:
                tally.small += 1
                record["outcome"] = record["outcome"] if record["crops"] else TOO_SMALL
                continue
            file = folder.save(source, len(record["crops"]), crop)
            box = [round(float(edge), 2) for edge in hand.box]
            score = round(float(hand.score), 4)
            record["outcome"] = CROPPED
            record["crops"].append(
                {"file": file, "box": box, "side": hand.handedness, "score": score, "size": len(crop)}
            )
    tally.crops += len(record["crops"])
    tally.photos[record["outcome"]] += 1
    folder.add(record)
    return record["outcome"]


def cut_hand(image: LoadedImage, hand: Detection, scale: float, settings: CropSettings) -> np.ndarray | None:
    """(S, S, 3) uint8; None if the hand is too small or lies outside."""
    try:
        if box_side(hand.box) < settings.min_side:
            return None
        return cut_square(image, hand.box, settings.size, scale)
    except DataError:
        return None


class CropFolder:
    """The folder of crops; as a context, it appends to the journal and leaves a manifest behind.

    Args:
        root: Made if it is not there.
        settings: Must be those that the folder was begun with.

    Attributes:
        done: The lines of the journal by photo; of several, the last.

    Raises:
        DataError: The folder was made with other settings, or its journal is damaged.
    """

    def __init__(self, root: Path, settings: CropSettings) -> None:
        self.root, self.settings = Path(root), settings
        self.done: dict[str, dict[str, Any]] = {}
        self._journal: BinaryIO | None = None
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / JOURNAL
        if path.exists():
            _drop_half_line(path)
            self._read(path)

    def _read(self, path: Path) -> None:
        lines = load_lines(path, MAX_MANIFEST_BYTES)
        for number, line in enumerate(lines, 1):
            place = f"{path}, line {number}"
            if number == 1:
                begun = parse_record(line, place, {"settings": dict})["settings"]
                if begun != self.settings.as_json():
                    raise DataError(
                        f"{self.root} was begun with {begun}, not {self.settings.as_json()}; give the same options "
                        "and boxes or another --out"
                    )
                continue
            record = parse_record(line, place, {"source": str, "outcome": str, "crops": list})
            self.done[record["source"]] = record

    def __enter__(self) -> CropFolder:
        path = self.root / JOURNAL
        self._journal = path.open("ab")
        if not path.stat().st_size:
            self._append({"settings": self.settings.as_json()})
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()
        with atomic_file(self.root / MANIFEST) as file:
            for record in self._crops():
                file.write(f"{json.dumps(record)}\n".encode())

    def _crops(self) -> Iterator[dict[str, Any]]:
        for source, record in self.done.items():
            for crop in record["crops"]:
                yield {"file": crop["file"], "source": source, **crop}

    def _append(self, record: dict[str, Any]) -> None:
        assert self._journal is not None, "the folder is used as a context"
        self._journal.write(f"{json.dumps(record)}\n".encode())
        self._journal.flush()

    def is_done(self, source: str) -> bool:
        """Whether nothing is left to do for a photo; one that could not be read may have been replaced since."""
        return source in self.done and self.done[source]["outcome"] != UNREADABLE

    def add(self, record: dict[str, Any]) -> None:
        """A photo is done."""
        if record != self.done.get(record["source"]):  # else each run would add that it still cannot be read
            self._append(record)
        self.done[record["source"]] = record

    def save(self, source: str, number: int, crop: np.ndarray) -> str:
        """Write a crop -> its name relative to the folder."""
        digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(source).stem)[:60] or "photo"
        name = f"{digest[:2]}/{stem}-{digest[2:10]}.{number}.jpg"
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        buffer = BytesIO()
        Image.fromarray(crop).save(buffer, "JPEG", quality=JPEG_QUALITY)
        with atomic_file(path) as file:
            file.write(buffer.getvalue())
        return name


def _drop_half_line(path: Path) -> None:
    """Cut what a killed run began to write: everything after the last complete line."""
    with path.open("rb+") as file:
        end = file.seek(0, 2)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)
