"""Reads the instructions of a pickle without obeying them.

The stock unpickler calls whatever the file names. This one knows the same instructions, but a named function or class
stays a name (`Global`), and calling it makes an `Inert` object that swallows everything done to it; nothing that a file
says is ever imported or called. Only the caller's `build` may turn a call into a value, which is how tensors appear.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import CheckpointError

# A pickle of the largest training checkpoints has a few hundred thousand instructions; each costs some tens of bytes.
MAX_INSTRUCTIONS = 2_000_000
MAX_ARGUMENTS = 1000


@dataclass(frozen=True, slots=True)
class Global:
    """A function or class that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Inert:
    """What stands in for an object that was not made."""

    what: str


Build = Callable[[Global, tuple], object]
Persistent = Callable[[object], object]


def evaluate(data: bytes, build: Build, persistent: Persistent) -> object:
    """The value that a pickle describes, of plain Python values, `Inert`s, and what `build` and `persistent` return.

    Args:
        data: the pickle, protocol 0 to 5.
        build: gets a `Global` and the arguments it would be called with; returns a value, or an `Inert`.
        persistent: gets what stands for an object outside the pickle (a storage); returns a value.

    Raises:
        CheckpointError: for anything that is no whole pickle; the message is a clause without the file's name.
    """
    machine = _Machine(build, persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_INSTRUCTIONS:
                raise CheckpointError(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except CheckpointError:
        raise
    except Exception as error:  # any instruction out of place ends here: an empty stack, a wrong type, a bad length
        raise CheckpointError(f"its pickle is damaged ({type(error).__name__}: {str(error)[:200]})") from error


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = ("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
_LITERALS = frozenset((*_NUMBERS, *_TEXTS, "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"))
_NEW = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))


class _Machine:
    """The stack, the marks on it and the memo of one pickle."""

    def __init__(self, build: Build, persistent: Persistent):
        self.stack: list = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self._copied = 0
        self._build = build
        self._persistent = persistent

    def step(self, name: str, argument) -> None:
        """Carry out one instruction."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _TUPLES:
            self.stack[-_TUPLES[name] :] = [tuple(self._top(_TUPLES[name]))]
        elif name not in _IGNORED:
            handler = getattr(self, f"_do_{name.lower()}", None)
            if handler is None:
                raise CheckpointError(f"its pickle uses the instruction {name}, which no checkpoint needs")
            handler(argument)

    def _top(self, count: int) -> list:
        if len(self.stack) < count:
            raise IndexError("stack is too short")
        return self.stack[-count:]

    def _to_mark(self) -> list:
        """Take everything above the last mark off the stack."""
        start = self._marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    # -- the stack and the memo -------------------------------------------------------------------------------------

    def _do_mark(self, _) -> None:
        self._marks.append(len(self.stack))

    def _do_pop(self, _) -> None:
        if self._marks and self._marks[-1] == len(self.stack):
            self._marks.pop()
        else:
            self.stack.pop()

    def _do_pop_mark(self, _) -> None:
        self._to_mark()

    def _do_dup(self, _) -> None:
        self.stack.append(self.stack[-1])

    def _do_put(self, index: int) -> None:
        self._memo[index] = self.stack[-1]

    _do_binput = _do_long_binput = _do_put

    def _do_memoize(self, _) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def _do_get(self, index: int) -> None:
        self.stack.append(self._memo[index])

    _do_binget = _do_long_binget = _do_get

    # -- containers -------------------------------------------------------------------------------------------------

    def _do_tuple(self, _) -> None:
        self.stack.append(tuple(self._to_mark()))

    def _do_list(self, _) -> None:
        self.stack.append(self._to_mark())

    def _do_dict(self, _) -> None:
        items = self._to_mark()
        self.stack.append({})
        self._fill(items)

    def _do_append(self, _) -> None:
        self._extend([self.stack.pop()])

    def _do_appends(self, _) -> None:
        self._extend(self._to_mark())

    def _extend(self, items: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _do_setitem(self, _) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _do_setitems(self, _) -> None:
        self._fill(self._to_mark())

    def _fill(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(plain_items(zip(items[::2], items[1::2], strict=True)))

    def _do_empty_set(self, _) -> None:
        self.stack.append(Inert("set"))

    def _do_additems(self, _) -> None:
        self._to_mark()

    def _do_frozenset(self, _) -> None:
        self._to_mark()
        self.stack.append(Inert("frozenset"))

    def _do_bytearray8(self, argument) -> None:
        self.stack.append(bytes(argument))

    # -- what the stock unpickler would import and call -------------------------------------------------------------

    def _do_global(self, argument: str) -> None:
        module, name = argument.split(" ", 1)
        self.stack.append(Global(module, name))

    def _do_stack_global(self, _) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError("a global is named by strings")
        self.stack.append(Global(module, name))

    def _do_ext1(self, argument: int) -> None:
        self.stack.append(Global("copyreg", f"extension {argument}"))

    _do_ext2 = _do_ext4 = _do_ext1

    def _call(self, function, arguments) -> None:
        if not isinstance(arguments, tuple):
            raise TypeError("arguments are no tuple")
        # What is built may copy its arguments, and a long list that is written once can be given a million times.
        self._copied += sum(len(a) for a in arguments[:MAX_ARGUMENTS] if isinstance(a, (tuple, list, dict, str, bytes)))
        if len(arguments) > MAX_ARGUMENTS or self._copied > MAX_INSTRUCTIONS:
            raise CheckpointError("its pickle builds more out of less than any checkpoint does")
        made = self._build(function, arguments) if isinstance(function, Global) else Inert("object")
        self.stack.append(made)

    def _do_reduce(self, _) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self._call(function, arguments)

    _do_newobj = _do_reduce

    def _do_newobj_ex(self, _) -> None:
        self.stack.pop()
        self._do_reduce(_)

    def _do_obj(self, _) -> None:
        function, *arguments = self._to_mark()
        self._call(function, tuple(arguments))

    def _do_inst(self, argument: str) -> None:
        arguments = tuple(self._to_mark())
        self._do_global(argument)
        self._call(self.stack.pop(), arguments)

    def _do_build(self, _) -> None:
        """BUILD gives an object its state. No value that matters here has any: the state is dropped."""
        self.stack.pop()
        self._top(1)

    def _do_binpersid(self, _) -> None:
        self.stack.append(self._persistent(self.stack.pop()))


def plain_items(pairs) -> list[tuple]:
    """The pairs whose key is a plain value. Others name nothing here, and hashing what a file nested may overflow."""
    return [(k, v) for k, v in pairs if isinstance(k, (str, int, float, bytes, type(None)))]
