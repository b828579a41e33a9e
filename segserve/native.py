"""Machine code of `segserve.mask_kernel` without numba or LLVM in the process: they would be 130 MB of each worker.

The code is compiled once on a host, in a process of its own (some 10 s), and kept in the user's cache folder, or beside
this file, under a name that says what it was made from: the sources' contents, the compiler's version, the processor.
So code that fits something else is never found, and a model that is unpacked to another folder finds the same file.
Where it can't be kept or loaded so (another kind of processor, no folder that can be written to), numba compiles it
for this process.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import logging
import mmap
import os
import platform
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

logger = logging.getLogger(__name__)

MAGIC: Final = b"segmask1"
ENTRY: Final = "<8sQ32s16x"
"""Header of the file: magic, offset of the function from the file's start, SHA-256 of what follows the header."""
HEADER_BYTES: Final = struct.calcsize(ENTRY)
NUM_ARGUMENTS: Final = 12

_SOURCES = ("mask_kernel.py", "jit.py", "native_build.py", "native.py")
_HERE = Path(__file__).resolve().parent

Function = Callable[..., None]


@functools.cache
def function(name: str) -> Function:
    """A function of `mask_kernel` that takes NUM_ARGUMENTS integers; runs without holding the GIL."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        for folder in _folders():
            try:
                return load(kept(name, folder))
            except (OSError, ValueError) as error:
                logger.warning("no machine code in %s: %s", folder, error)
            except subprocess.CalledProcessError as error:
                logger.warning(
                    "no machine code for this processor:\n%s", error.stderr.decode(errors="replace")
                )
                break
    from segserve import mask_kernel

    compiled: Function = getattr(mask_kernel, name)
    return compiled


def _folders() -> Iterator[Path]:
    """Where code may be kept, best first."""
    caches = os.environ.get("XDG_CACHE_HOME")
    folder = caches or os.path.expanduser("~/.cache")  # stays as it is for a user without a home
    if not folder.startswith("~"):
        yield Path(folder) / "segserve"
    yield _HERE / "__pycache__"


def kept(name: str, folder: Path) -> Path:
    """The file with the code in `folder`, made now if it is not there.

    Raises: OSError where it can't be kept; CalledProcessError (with stderr) where it can't be compiled.
    """
    path = folder / f"{name}-{_made_from()}.bin"
    if path.exists():
        return path
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "native.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other workers that start now wait here, and then find the file
        if not path.exists():
            logger.info("compiling %s for this processor, once on this host", name)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / path.name
                subprocess.run(
                    [sys.executable, "-m", "segserve.native_build", name, str(made)],
                    cwd=_HERE.parent, check=True, capture_output=True,
                )  # fmt: skip
                made.chmod(0o644)
                made.replace(path)
    return path


def _made_from() -> str:
    """Names everything that the machine code depends on."""
    digest = hashlib.sha256()
    for source in _SOURCES:
        digest.update((_HERE / source).read_bytes())
    for library in ("numba", "llvmlite"):
        spec = importlib.util.find_spec(library)
        if spec is not None and spec.origin is not None:
            digest.update(Path(spec.origin).with_name("_version.py").read_bytes())
    processor = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    wanted = ("vendor_id", "cpu family", "model", "flags")
    digest.update("\n".join(line for line in processor if line.startswith(wanted)).encode())
    return digest.hexdigest()[:32]


def load(path: Path) -> Function:
    """The function in a file. Raises OSError; ValueError: damaged, or a file that another user may have written."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise ValueError(f"{path} may have been written by another user")
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    if len(memory) <= HEADER_BYTES:
        raise ValueError(f"{path} is cut off; delete it")
    magic, entry, digest = struct.unpack_from(ENTRY, memory)
    if magic != MAGIC or hashlib.sha256(memory[HEADER_BYTES:]).digest() != digest:
        raise ValueError(f"{path} is damaged; delete it")
    image = np.frombuffer(memory, np.uint8)
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_int64,) * NUM_ARGUMENTS
    )
    code = prototype(image.ctypes.data + entry)
    # numba's calling convention: where to put the result (there is none) and the exception (nothing raises)
    unused = (ctypes.c_int64 * 2)()

    def call(*arguments: int, _keep: object = image) -> None:
        code(ctypes.addressof(unused), ctypes.addressof(unused) + 8, *arguments)

    return call
