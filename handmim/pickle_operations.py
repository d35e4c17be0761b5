"""The operations of a pickle, looked at before any of them is done.

A pickle is a program for a small stack machine. `safe_pickle` decides what its names may stand for; here is refused
what needs no name to take the machine's time or memory. The file travels to Hub repositories: it imports the standard
library and flat siblings only.
"""

import pickletools
from collections.abc import Iterator

from .errors import HandMIMError


class UnsafeFileError(HandMIMError, ValueError):
    """A file that holds more than plain arrays, or is damaged. Nothing in it has been run."""


_MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT")
_MEMO_READS = ("GET", "BINGET", "LONG_BINGET")
_ARGUMENTS = {*_MEMO_WRITES, *_MEMO_READS, "LONG4"}
_REFUSED = ("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER")
_PREFIX_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
# Bytes of a whole number: products of longer ones, and their hashes, take as long as one likes.
_MAX_INTEGER = 256
# Parts of a tuple that is the key of a dict or in a set, those of tuples in it included.
_MAX_KEY = 64


def _operations(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and arguments of a pickle's operations; `pickletools.genops` cannot read Python 2's byte strings."""
    end = 0
    while end < len(data):
        operation = pickletools.code2op.get(chr(data[end]))
        if operation is None:
            raise UnsafeFileError(f"byte {end} is no pickle operation")
        start = end = end + 1
        size = 0 if operation.arg is None else operation.arg.n
        if size >= 0:
            end += size
        elif size == pickletools.UP_TO_NEWLINE:
            for _ in range(2 if operation.arg.name == "stringnl_noescape_pair" else 1):
                end = data.find(b"\n", end) + 1
                if end == 0:
                    raise UnsafeFileError("the pickle is cut off")
        else:
            end += _PREFIX_BYTES[size] + int.from_bytes(data[start : start + _PREFIX_BYTES[size]], "little")
        if end > len(data):
            raise UnsafeFileError(f"{operation.name} at byte {start - 1} claims more bytes than the file has")
        yield operation.name, data[start:end] if operation.name in _ARGUMENTS else b""
        if operation.name == "STOP":
            return
    raise UnsafeFileError("the pickle is cut off")


def check_operations(data: bytes) -> None:
    """Refuses what `find_class` does not see: extension codes, outside references, sizes and memo slots out of range,
    long whole numbers, and keys that are large tuples.

    A memo slot 2**32 - 1 alone makes the C unpickler ask for 64 GiB.
    """
    keys = _Keys()
    for name, argument in _operations(data):
        if name in _REFUSED:
            raise UnsafeFileError(f"the pickle uses the operation {name}, which is not admitted")
        if name == "LONG4" and len(argument) > _MAX_INTEGER:
            raise UnsafeFileError(f"the pickle holds a whole number of {len(argument)} bytes")
        slot = 0
        if name in _MEMO_WRITES or name in _MEMO_READS:
            slot = int(argument) if name in ("PUT", "GET") else int.from_bytes(argument, "little")
            if not 0 <= slot <= len(data):
                raise UnsafeFileError(f"the pickle asks for memo slot {slot} in a file of {len(data)} bytes")
        keys.follow(name, slot)


def _stack_effect(operation: pickletools.OpcodeInfo) -> tuple[int, bool, int]:
    """How many items an operation takes, whether also all that follow the last mark, and how many it puts back."""
    before = operation.stack_before
    marked = pickletools.markobject in before
    return before.index(pickletools.markobject) if marked else len(before), marked, len(operation.stack_after)


_EFFECTS = {operation.name: _stack_effect(operation) for operation in pickletools.opcodes}
_TUPLES = ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE")


class _Keys:
    """Follows an unpickler's stack as far as tuples go, to look at the keys of dicts and sets before they are hashed.

    Python hashes a tuple by walking all of it: one nested deeply enough overflows the C stack, and a few bytes that
    hold the same tuple twice, level by level, never end.

    Attributes:
        stack: Of every item the number of parts, unfolded; 0 for what is no tuple, no more than `_MAX_KEY` + 1.
        marks: Lengths of the stack at the marks that are set.
        memo: Parts of stored items.
    """

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}

    def follow(self, name: str, slot: int) -> None:
        """One operation; `slot` is that of the memo, for those that name one.

        Raises:
            UnsafeFileError: It takes more than there is, or a key is too large.
        """
        stack, marks = self.stack, self.marks
        if name == "MARK" or (name == "POP" and marks and marks[-1] == len(stack)):
            marks.append(len(stack)) if name == "MARK" else marks.pop()
            return
        if name in _MEMO_WRITES or name == "MEMOIZE":
            self.memo[len(self.memo) if name == "MEMOIZE" else slot] = stack[-1] if stack else 0
            return
        count, marked, put = _EFFECTS[name]
        if len(stack) < count or (marked and not marks):
            raise UnsafeFileError(f"the operation {name} takes more than there is")
        start = marks.pop() if marked else len(stack) - count
        taken = stack[start:]
        self._check(name, taken)
        del stack[start - count if marked else start :]
        value = 0
        if name in _TUPLES:
            value = min(1 + len(taken) + sum(taken), _MAX_KEY + 1)
        elif name in _MEMO_READS:
            value = self.memo.get(slot, 0)
        elif name == "DUP":
            value = taken[0]
        stack += [value] * put

    @staticmethod
    def _check(name: str, taken: list[int]) -> None:
        """Raises UnsafeFileError if the items that an operation takes hold a key that is too large."""
        if name == "SETITEM":
            keys = taken[1:2]
        elif name in ("SETITEMS", "DICT"):
            keys = taken[::2]
        else:
            keys = taken if name in ("ADDITEMS", "FROZENSET") else []
        if keys and max(keys) > _MAX_KEY:
            raise UnsafeFileError(f"a key of a dict or set is a tuple of more than {_MAX_KEY} parts")
