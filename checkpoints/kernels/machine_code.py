"""Compiled loops on disk: each is compiled once per machine, by numba, and loaded in milliseconds ever after, without numba.

Importing numba and loading from its own cache takes half a second of every process, as long as merging a gigabyte. What is
kept here is bare machine code that calls nothing, so llvmlite alone can put it into memory. It is in `__pycache__`, or in the
user's cache folder where that cannot be written. The file's name says which source, which compiler and which processor it is
for; a damaged file is compiled anew.

What is there is run as part of this program, so it must be nobody else's: a folder or file that another user owns or may write
to is not read. Loops are then compiled in memory, which is told once. Windows' folders of a user are its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from ..errors import UnetscopeError, tell
from ..files.cache import cache_folder
from ..files.output import replace_file
from ..notices import Notice
from .definitions import SIGNATURES

_ROOM = Path(__file__).parent
_PACKAGE = Path(os.path.realpath(__file__)).parents[2]
# What machine code is made of.
_SOURCES = ("loops.py", "definitions.py")
_TYPES = {"n": ctypes.c_ssize_t, "f4": ctypes.c_float, "f8": ctypes.c_double, "u8": ctypes.c_uint64}
_ENTRY = "unetscope_loop"
_DIGEST = 32
_LOOPS: dict[tuple[str, tuple[str, ...]], Callable[..., int]] = {}
_LOCK = threading.Lock()
_TOLD: list[str] = []


def loop(operation: str, formats: tuple[str, ...] = ()) -> Callable[..., int]:
    """A loop of `loops` for stored elements of these formats; arrays are given by their address. Python's lock is released
    while it runs.

    Raises:
        UnetscopeError: what this release of numba makes of it cannot stand alone.
        RuntimeError: this system lets nobody make code.
    """
    key = operation, formats
    if key not in _LOOPS:
        with _LOCK:
            if key not in _LOOPS:
                _LOOPS[key] = _prepared(*key)
    return _LOOPS[key]


def _prepared(operation: str, formats: tuple[str, ...]) -> Callable[..., int]:
    name = "-".join(("unetscope", operation, *formats, f"{_identity()}.machine-code"))
    code = _load(name)
    if code is None:
        code = _compile(operation, formats)
        _save(name, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    taken = (_TYPES.get(kind, ctypes.c_void_p) for kind in SIGNATURES[operation])
    made = ctypes.CFUNCTYPE(ctypes.c_ssize_t, *taken)(engine.get_function_address(_ENTRY))
    made.engine = engine  # the code lives as long as its engine does
    return made


@cache
def _machine() -> tuple[str, str]:
    """This processor's name and features, as LLVM calls them."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


@cache
def _identity() -> str:
    """What the machine code depends on, as a short digest."""
    source = b"".join((_ROOM / name).read_bytes() for name in _SOURCES)
    said = "\0".join((llvmlite.__version__, llvm.get_process_triple(), *_machine()))
    return hashlib.sha256(source + said.encode()).hexdigest()[:16]


def _target():
    name, features = _machine()
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(name, features, opt=3, jit=True)


def _compile(operation: str, formats: tuple[str, ...]) -> bytes:
    """The machine code of a loop, whose one visible function is `_ENTRY`."""
    import numba

    from .loops import compile_loop

    made = compile_loop(operation, formats)
    module = llvm.parse_assembly(made.inspect_llvm())
    for function in module.functions:
        if function.name == made.native_name:
            function.name = _ENTRY
        elif not function.is_declaration:
            # Seen from inside only: what is left of Python in them (errors that no loop raises) can be dropped.
            function.linkage = "internal"
    target = _target()
    passes = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    called = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    if called:
        raise UnetscopeError(
            f"numba {numba.__version__} compiles the kernel {operation} so that it cannot stand alone (it calls "
            f"{', '.join(called)}); set UNETSCOPE_KERNEL to numpy, or install another numba"
        )
    return target.emit_object(module)


# -- on disk ------------------------------------------------------------------------------------------------------------


def _folders() -> list[Path]:
    """Where machine code is kept, the best place first, if only this user may write there."""
    return [_ROOM / "__pycache__", cache_folder()]


def _load(name: str) -> bytes | None:
    for folder in filter(usable, _folders()):
        with contextlib.suppress(OSError), open(folder / name, "rb") as file:
            if not is_own(os.fstat(file.fileno())):
                continue
            content = file.read()
            if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
                return content[_DIGEST:]
    return None


def _save(name: str, code: bytes) -> None:
    for folder in filter(usable, _folders()):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / name, hashlib.sha256(code).digest() + code, fsync=False)
            # Whoever may write to what is replaced shall not write to what replaces it.
            os.chmod(folder / name, 0o644)
            return
    faults = [_fault(folder) for folder in _folders() if folder.is_dir()]
    if faults and all(faults) and not _TOLD:
        _TOLD.append(faults[-1])
        text = (
            f"{faults[-1]}, so compiled kernels are not kept there: they are compiled for this run alone. Take the right to write "
            "from others (chmod go-w), or set UNETSCOPE_CACHE to a folder of your own"
        )
        tell(Notice("kernels.not_kept", text))


# -- whose it is --------------------------------------------------------------------------------------------------------


def usable(folder: Path) -> bool:
    """Whether compiled code may be read from a folder and kept there: it and all above it can be changed by this user alone.

    Whoever owns this program's own files, and root, may as well: they could change what runs in any case. A folder that is not
    there yet is judged by those above it.
    """
    return not _fault(folder)


def is_own(found: os.stat_result) -> bool:
    """Whether nobody else owns a file or may write to it."""
    return os.name == "nt" or (found.st_uid in _owners() and not _others_may_write(found))


def _fault(folder: Path) -> str:
    """Why a folder is not a place for code, empty where it is one."""
    if os.name == "nt":
        return ""
    path = Path(os.path.realpath(folder))
    for place in (path, *path.parents):
        try:
            found = os.stat(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{place} cannot be looked at ({error.strerror})"
        if path.is_relative_to(_PACKAGE) and not place.is_relative_to(_PACKAGE):
            break  # where the program itself lies is as safe as the program
        if found.st_uid not in _owners():
            return f"{place} belongs to another user"
        # In a folder with the sticky bit, as /tmp, others can make files and cannot touch ours.
        if _others_may_write(found) and not (place != path and found.st_mode & stat.S_ISVTX):
            return f"{place} can be written by other users"
    return ""


@cache
def _owners() -> frozenset[int]:
    return frozenset({0, os.geteuid(), os.stat(_PACKAGE).st_uid})


def _others_may_write(found: os.stat_result) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _own_group(found.st_gid)


@cache
def _own_group(number: int) -> bool:
    """Whether a group is that of one user alone, as Linux makes one for each, and this user's."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
