"""Memory that a program frees and takes again at once, as a network does at every operation.

On Linux, glibc gives large blocks back to the system and asks for them anew, so that every page of every activation is
mapped and cleared again. Keeping them makes rendering up to twice as fast, training a fifth; a process then holds the
most memory it ever needed until it ends. `handmim` commands do this, importing the package never does: the allocator
belongs to the whole process.
"""

import ctypes
import os
import sys

# <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_TRIM_ABOVE = 2**31 - 1  # bytes, the largest that mallopt takes
_GROW_BY = 1 << 28
_MAP_ABOVE = (1 << 30, 1 << 25)  # before glibc 2.35 or so no more than 32 MiB are taken
_USERS_CHOICE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed, unless the environment says what it should do.

    Returns:
        Whether it was told; False with another C library, or the user's own settings.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _USERS_CHOICE):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
        library.gnu_get_libc_version  # noqa: B018 (other libraries have a mallopt that does nothing)
    except (OSError, AttributeError):
        return False

    def takes(name: int, value: int) -> bool:
        return mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1

    # This first: the others alone would fix it at 128 KiB, and make everything slower.
    if not any(takes(_M_MMAP_THRESHOLD, value) for value in _MAP_ABOVE):
        return False
    return takes(_M_TRIM_THRESHOLD, _TRIM_ABOVE) and takes(_M_TOP_PAD, _GROW_BY)
