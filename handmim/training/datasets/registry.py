"""The data sets by name. Modules are imported when asked for, so that listing names costs nothing."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sample import HandReader

READERS: dict[str, str] = {
    "freihand": "freihand:FreiHAND",
    "ho3d-v2": "ho3d:HO3Dv2",
    "ho3d-v3": "ho3d:HO3Dv3",
    "youtube3d": "youtube3d:YouTube3DHands",
    "coco-wholebody": "coco_wholebody:CocoWholeBody",
    "rhd": "rhd:RHD",
    "stb": "stb:STB",
    "panoptic": "panoptic:Panoptic",
    "dexter-object": "dexter_object:DexterObject",
    "hiu-data": "hiu_data:HIUData",
    "ge": "ge:GeRealWorld",
    "folder": "folder:LabelledFolder",
}


def reader_class(name: str) -> type[HandReader]:
    """The reader of a data set.

    Raises:
        DataError: No data set has this name; the message lists those that there are.
    """
    from .sample import DataError

    if name not in READERS:
        raise DataError(f"a data set must be one of {', '.join(sorted(READERS))}, got {name!r}")
    module, attribute = READERS[name].split(":")
    return getattr(import_module(f"{__package__}.{module}"), attribute)


def open_dataset(name: str, root: str | Path, split: str | None = None, **options: Any) -> HandReader:
    """Read a data set's labels.

    Args:
        name: Key of `READERS`.
        root: Folder of its official layout.
        split: One of the reader's `splits`; None takes the first.
        **options: Further arguments of that reader.

    Raises:
        DataError: Unknown name or split, or a file that is missing or wrong.
    """
    return reader_class(name)(root, split, **options)
