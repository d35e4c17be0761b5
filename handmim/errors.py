"""What goes wrong on the user's side, as types.

Every message is one sentence that names the value and says what to do, so that a program can print it as it stands.
"""

import tokenize
import zipfile
import zlib

# What numpy and zipfile raise of .npz files that are cut off, damaged, encrypted, or of a kind they do not know.
NPZ_ERRORS = (
    *(ValueError, OSError, KeyError, EOFError, MemoryError, RuntimeError),  # the last holds NotImplementedError
    *(zipfile.BadZipFile, zlib.error, OverflowError, tokenize.TokenError),
)


class HandMIMError(Exception):
    """Base of the package's own errors."""


class ImageError(HandMIMError, ValueError):
    """A picture that cannot be read or is unfit: missing, empty, truncated, too large, too small, not a picture."""


class InputError(HandMIMError, ValueError):
    """What the caller asked for makes no sense: a box, a handedness, a camera, an option."""


class ModelError(HandMIMError, ValueError):
    """A checkpoint that is missing, damaged, or of another kind than the task needs."""


class DataError(HandMIMError, ValueError):
    """A data set's or a submission's file is missing or wrong; the message names the file, the sample and the field."""
