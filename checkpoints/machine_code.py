"""Compiled loops on disk: each is compiled once per machine, by numba, and loaded in milliseconds ever after, without numba.

Importing numba and loading from its own cache takes half a second of every process, as long as merging a gigabyte. What is
kept here is bare machine code that calls nothing, so llvmlite alone can put it into memory. It lies beside numba's own cache:
in `__pycache__`, or in the user's cache folder where that cannot be written. The file's name says which source, which compiler
and which processor it is for; a damaged file is compiled anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from .hashes import cache_folder
from .kernel_cache import is_own, tell_unusable, usable
from .output import replace_file

_SOURCE = Path(__file__).with_name("kernel_loops.py")
_WHOLE, _ADDRESS, _SINGLE = ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_float
_ARGUMENTS = {
    "decode": (_ADDRESS, _ADDRESS, _WHOLE),
    "encode": (_ADDRESS, _ADDRESS, _WHOLE, _SINGLE),
    "count_bad": (_ADDRESS, _WHOLE, _SINGLE),
    "linear": (_ADDRESS, _WHOLE, _WHOLE, _ADDRESS, _WHOLE, _ADDRESS, _ADDRESS, _SINGLE),
}
_ENTRY = "unetscope_loop"
_DIGEST = 32
_LOOPS: dict[tuple[str, np.dtype, np.dtype], Callable[..., int]] = {}
_LOCK = threading.Lock()


def loop(operation: str, source: np.dtype, out: np.dtype) -> Callable[..., int]:
    """A loop of `kernel_loops` for these carriers, ready to call with addresses; Python's lock is released while it runs."""
    key = operation, source, out
    if key not in _LOOPS:
        with _LOCK:
            if key not in _LOOPS:
                _LOOPS[key] = _prepared(*key)
    return _LOOPS[key]


def _prepared(operation: str, source: np.dtype, out: np.dtype) -> Callable[..., int]:
    name = f"unetscope-{operation}-{source}-{out}-{_identity()}.machine-code"
    code = _load(name)
    if code is None:
        code = _compile(operation, source, out)
        _save(name, code)
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    made = ctypes.CFUNCTYPE(_WHOLE, *_ARGUMENTS[operation])(engine.get_function_address(_ENTRY))
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
    said = "\0".join((llvmlite.__version__, llvm.get_process_triple(), *_machine()))
    return hashlib.sha256(_SOURCE.read_bytes() + said.encode()).hexdigest()[:16]


def _target():
    name, features = _machine()
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(name, features, opt=3, jit=True)


def _engine():
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())


def _compile(operation: str, source: np.dtype, out: np.dtype) -> bytes:
    """The machine code of a loop, whose one visible function is `_ENTRY`."""
    from .kernel_loops import compile_loop

    made = compile_loop(operation, source, out)
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
        raise RuntimeError(f"the compiled {operation} calls {', '.join(called)}")
    return target.emit_object(module)


def _folders() -> list[Path]:
    """Where machine code is kept, the best place first, if only this user may write there."""
    return [_SOURCE.with_name("__pycache__"), cache_folder()]


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
    tell_unusable(folder for folder in _folders() if folder.is_dir())
