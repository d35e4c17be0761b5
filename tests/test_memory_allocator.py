"""Commands keep freed memory for themselves: no page of it is mapped a second time."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from handmim import memory_allocator
from handmim.memory_allocator import keep_freed_memory

# Takes and frees 64 MiB ten times, and prints how many pages were mapped anew after the first time.
FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    from handmim.memory_allocator import keep_freed_memory
    assert keep_freed_memory()
np.ones(1 << 23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def mapped_pages(how: str) -> int:
    kept = {name: value for name, value in os.environ.items() if name not in memory_allocator._USERS_CHOICE}
    run = subprocess.run([sys.executable, "-c", FAULTS, how], env=kept, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_taken_again_without_new_pages() -> None:
    try:
        kept = mapped_pages("keep")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"another C library: {error.stderr.splitlines()[-1]}")
    # the system may give 4 kB pages (16,384 a time) or large ones (32); none is wanted
    assert kept < 16 <= mapped_pages("as it is")


@pytest.mark.parametrize(("limit", "told"), [(1 << 40, {-3: 1 << 30}), (1 << 25, {-3: 1 << 25}), (1 << 10, {})])
def test_a_threshold_that_is_refused_is_not_fixed_at_its_default(
    limit: int, told: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older glibc take no more than 32 MiB; other settings alone switch its own rule off, and slow all down."""
    taken = {}

    def mallopt(name: object, value: object) -> int:
        good = name.value != -3 or value.value <= limit
        taken.update({name.value: value.value} if good else {})
        return int(good)

    for name in memory_allocator._USERS_CHOICE:
        monkeypatch.delenv(name, raising=False)
    library = SimpleNamespace(mallopt=mallopt, gnu_get_libc_version=None)
    monkeypatch.setattr(memory_allocator.sys, "platform", "linux")
    monkeypatch.setattr(memory_allocator.ctypes, "CDLL", lambda _: library)
    assert keep_freed_memory() == bool(told)
    assert taken == (told | {-1: 2**31 - 1, -2: 1 << 28} if told else {})


def test_the_users_settings_and_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "0")
    assert not keep_freed_memory()
    monkeypatch.delenv("MALLOC_TOP_PAD_")
    monkeypatch.setattr(memory_allocator.sys, "platform", "darwin")
    assert not keep_freed_memory()
