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
# Whole numbers and the bytes before their digits. Texts are decimal, the others little-endian.
_INTEGERS = {"INT": 0, "LONG": 0, "BININT": 0, "BININT1": 0, "BININT2": 0, "LONG1": 1, "LONG4": 4}
_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_ARGUMENTS = {*_MEMO_WRITES, *_MEMO_READS, *_INTEGERS}
_REFUSED = (
    *("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"),
    *("EMPTY_SET", "ADDITEMS", "FROZENSET"),  # no file needs sets, and two that are equal take long to compare
)
_PREFIX_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
# Bytes of a whole number: products of longer ones, and their hashes, take as long as one likes.
_MAX_INTEGER = 256
# Whole numbers below are their own hashes: others can be chosen to hash alike, and dicts of them take quadratic time.
_MAX_KEY_NUMBER = 2**60
# Bytes of a string that is a key: two equal ones are compared as often as a few bytes each name them.
_MAX_KEY_BYTES = 4096
# Whole numbers that are keys: small ones too can be chosen to meet in a dict, and this many do so for seconds. RHD's
# pictures are the 41,258 keys of its annotations.
_MAX_KEY_NUMBERS = 2**16
_TEXT, _NUMBER = "string", "number"  # kinds of what may be a key; all others are words for a message


def _operations(data: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Names of a pickle's operations, arguments of `_ARGUMENTS`, and lengths of arguments.

    `pickletools.genops` cannot read Python 2's byte strings.
    """
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
        yield operation.name, data[start:end] if operation.name in _ARGUMENTS else b"", end - start
        if operation.name == "STOP":
            return
    raise UnsafeFileError("the pickle is cut off")


def check_operations(data: bytes) -> None:
    """Refuses what `find_class` does not see: extension codes, outside references, sizes and memo slots out of range,
    long whole numbers, sets, and keys that are neither short strings nor whole numbers below 2**60.

    A memo slot 2**32 - 1 alone makes the C unpickler ask for 64 GiB.
    """
    keys = _Keys()
    for name, argument, length in _operations(data):
        if name in _REFUSED:
            raise UnsafeFileError(f"the pickle uses the operation {name}, which is not admitted")
        if name == "LONG4" and len(argument) > _MAX_INTEGER:
            raise UnsafeFileError(f"the pickle holds a whole number of {len(argument)} bytes")
        slot = 0
        if name in _MEMO_WRITES or name in _MEMO_READS:
            slot = int(argument) if name in ("PUT", "GET") else int.from_bytes(argument, "little")
            if not 0 <= slot <= len(data):
                raise UnsafeFileError(f"the pickle asks for memo slot {slot} in a file of {len(data)} bytes")
        keys.follow(name, slot, _kind(name, argument, length))


def _stack_effect(operation: pickletools.OpcodeInfo) -> tuple[int, bool, int]:
    """How many items an operation takes, whether also all that follow the last mark, and how many it puts back."""
    before = operation.stack_before
    marked = pickletools.markobject in before
    return before.index(pickletools.markobject) if marked else len(before), marked, len(operation.stack_after)


_EFFECTS = {operation.name: _stack_effect(operation) for operation in pickletools.opcodes}
_WORDS = {
    operation.name: f"something of the kind {operation.stack_after[-1].name}"
    for operation in pickletools.opcodes
    if operation.stack_after
}


def _kind(name: str, argument: bytes, length: int) -> str:
    """What an operation puts on the stack, in words for a message; `_TEXT` or `_NUMBER` if it may be a key."""
    if name in _STRINGS:
        return _TEXT if length <= _MAX_KEY_BYTES else f"a string of {length} bytes"
    if name in _INTEGERS:
        return _NUMBER if _is_small(name, argument) else f"a whole number of {length} bytes"
    return _WORDS.get(name, "")


def _is_small(name: str, argument: bytes) -> bool:
    """Whether a whole number is nearer to 0 than `_MAX_KEY_NUMBER`; a text that is no number is not."""
    if len(argument) > 32:
        return False
    if name not in ("INT", "LONG"):
        return abs(int.from_bytes(argument[_INTEGERS[name] :], "little", signed=True)) < _MAX_KEY_NUMBER
    try:
        return abs(int(argument.strip().rstrip(b"L"))) < _MAX_KEY_NUMBER
    except ValueError:
        return False


class _Keys:
    """Follows an unpickler's stack, to look at the keys of dicts before they are hashed.

    Only strings, whose hashes nobody can choose, and small whole numbers are admitted. Python hashes and compares
    tuples by walking all of them: one nested deeply enough overflows the C stack, and a few bytes that hold the same
    tuple twice, level by level, never end. Large whole numbers can be chosen so that all hash alike.

    Attributes:
        stack: The kind of every item.
        marks: Lengths of the stack at the marks that are set.
        memo: Kinds of stored items.
        numbers: How many keys were whole numbers.
    """

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.marks: list[int] = []
        self.memo: dict[int, str] = {}
        self.numbers = 0

    def follow(self, name: str, slot: int, kind: str) -> None:
        """One operation; `slot` is that of the memo, for those that name one, and `kind` what it puts on the stack.

        Raises:
            UnsafeFileError: It takes more than there is, or a key is of another kind.
        """
        stack, marks = self.stack, self.marks
        if name == "MARK" or (name == "POP" and marks and marks[-1] == len(stack)):
            marks.append(len(stack)) if name == "MARK" else marks.pop()
            return
        if name in _MEMO_WRITES or name == "MEMOIZE":
            self.memo[len(self.memo) if name == "MEMOIZE" else slot] = stack[-1] if stack else "nothing"
            return
        count, marked, put = _EFFECTS[name]
        if len(stack) < count or (marked and not marks):
            raise UnsafeFileError(f"the operation {name} takes more than there is")
        start = marks.pop() if marked else len(stack) - count
        taken = stack[start:]
        self._check(_keys(name, taken))
        del stack[start - count if marked else start :]
        if name in _MEMO_READS:
            kind = self.memo.get(slot, "nothing")
        elif name == "DUP":
            kind = taken[0]
        stack += [kind] * put

    def _check(self, keys: list[str]) -> None:
        """Raises UnsafeFileError if one of these is no key, or if the file's whole numbers are too many."""
        other = next((kind for kind in keys if kind not in (_TEXT, _NUMBER)), None)
        if other is not None:
            raise UnsafeFileError(
                f"the keys of a dict must be strings of up to {_MAX_KEY_BYTES} bytes or whole numbers below 2**60, "
                f"got {other}"
            )
        self.numbers += keys.count(_NUMBER)
        if self.numbers > _MAX_KEY_NUMBERS:
            raise UnsafeFileError(f"more than {_MAX_KEY_NUMBERS} keys of dicts are whole numbers; make them strings")


def _keys(name: str, taken: list[str]) -> list[str]:
    """Those of the items that an operation takes which become keys of a dict."""
    if name == "SETITEM":
        return taken[1:2]
    return taken[::2] if name in ("SETITEMS", "DICT") else []
