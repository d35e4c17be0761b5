"""Files that are there whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` when it is complete, and not at all after an error; its folder is made.

    A symbolic link stays, and the file appears where it leads to.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    given, path = path, behind_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():  # a file in a device's place would break the machine
        kind = "folder" if path.is_dir() else "device or a pipe"
        raise FileExistsError(errno.EEXIST, f"is a {kind}, which a file cannot replace", str(given))
    # Of a long name a part: the whole one and what is added might be too long.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:32]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files that only the owner reads
        os.replace(name, path)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, OSError) and error.filename == name:  # the user knows the other name
            error.filename, error.filename2 = str(given), None
        raise


def behind_links(path: Path) -> Path:
    """Where a symbolic link leads to in the end, there or not; any other path as it is.

    Raises:
        OSError: The links lead in a circle.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to write files into; they appear in `path`, each of them whole, when all are written.

    Files that are in `path` already and were not written again stay. After an error `path` is as it was. Symbolic links
    stay too: what they lead to is written.

    Raises:
        OSError: It cannot be written.
    """
    path = behind_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:32]}.", suffix=".tmp"))
    try:
        yield folder
        path.mkdir(exist_ok=True)
        for file in sorted(folder.iterdir()):
            os.chmod(file, 0o666 & ~_umask())  # safetensors makes files that only the owner reads
            if (path / file.name).is_symlink():  # leads perhaps to another disk, where no file can be moved to
                with file.open("rb") as source, atomic_file(path / file.name) as target:
                    shutil.copyfileobj(source, target)
            else:
                os.replace(file, path / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
