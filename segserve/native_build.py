"""Compile a function of `segserve.mask_kernel` into a file of machine code that `segserve.native` can load.

    python -m segserve.native_build fill_float32 OUT

In a process of its own, because LLVM keeps some 200 MB. The file is a flat image: code and constants, whose references
to each other are relative and filled in here, and no reference to anything else. (It is what a linker would make; but
there need not be one on a server.)
"""

from __future__ import annotations

import hashlib
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba import njit, types

from segserve import mask_kernel
from segserve.native import ENTRY, HEADER_BYTES, MAGIC, NUM_ARGUMENTS

# Where compilers make calls of loops that fill or copy: these take the place of libc's.
_LIBC = """
define ptr @memset(ptr %to, i32 %value, i64 %size) nounwind {
  %byte = trunc i32 %value to i8
  call { ptr, i64 } asm sideeffect "rep stosb", "={rdi},={rcx},0,1,{al},~{memory}"(ptr %to, i64 %size, i8 %byte)
  ret ptr %to
}
define ptr @memcpy(ptr %to, ptr %from, i64 %size) nounwind {
  call { ptr, ptr, i64 } asm sideeffect "rep movsb", "={rdi},={rsi},={rcx},0,1,2,~{memory}"(
    ptr %to, ptr %from, i64 %size)
  ret ptr %to
}
"""
_SHF_WRITE, _SHF_ALLOC, _SHT_RELA, _SHT_SYMTAB = 1, 2, 4, 2
_R_X86_64_PC32, _R_X86_64_PLT32 = 2, 4


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    flags: int
    info: int
    alignment: int
    content: bytes


def build(name: str) -> bytes:
    """The file for a function of `mask_kernel`. Raises ValueError where the code would need something outside it."""
    image, entry = _link(_object(name), start=HEADER_BYTES)
    return struct.pack(ENTRY, MAGIC, entry, hashlib.sha256(image).digest()) + image


def _object(name: str) -> bytes:
    """An ELF object of the function, which has the name "entry" there, for this processor."""
    function: Any = njit(nogil=True, error_model="numpy")(getattr(mask_kernel, name).py_func)
    signature = (types.int64,) * NUM_ARGUMENTS
    function.compile(signature)
    symbol = function.overloads[signature].fndesc.llvm_func_name
    text = function.inspect_llvm(signature)
    # its arrays lie in memory that others own, so there is nothing to count
    text = re.sub(r"^.*call void @NRT_(?:in|de)cref\(.*\n", "", text, flags=re.MULTILINE)
    module = llvm.parse_assembly(text + _LIBC)
    for defined in module.functions:
        if not defined.is_declaration and defined.name not in (symbol, "memset", "memcpy"):
            defined.linkage = "internal"
    module.get_function(symbol).name = "entry"
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="small",
    )
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    compiled: bytes = machine.emit_object(module)
    return compiled


def _sections(elf: bytes) -> list[_Section]:
    """Of a little-endian ELF64 file."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names_at = struct.unpack_from("<3H", elf, 58)
    headers = [struct.unpack_from("<2I4Q2I2Q", elf, table + index * size) for index in range(count)]
    names = elf[headers[names_at][4] :]
    return [
        _Section(
            names[header[0] :].split(b"\0", 1)[0].decode(),
            kind=header[1], flags=header[2], info=header[7], alignment=max(header[8], 1),
            content=elf[header[4] : header[4] + header[5]],
        )
        for header in headers
    ]  # fmt: skip


def _link(elf: bytes, start: int) -> tuple[bytes, int]:
    """Lay the sections one after the other, from address `start`; returns the image and the address of "entry"."""
    sections = _sections(elf)
    addresses: dict[int, int] = {}
    image = bytearray()
    for index, section in enumerate(sections):
        if section.flags & _SHF_ALLOC and section.name != ".eh_frame" and section.content:
            if section.flags & _SHF_WRITE:
                raise ValueError(f"{section.name} would be written to, and the file is shared")
            image += bytes(-(start + len(image)) % section.alignment)
            addresses[index] = start + len(image)
            image += section.content
    [symbols] = [section.content for section in sections if section.kind == _SHT_SYMTAB]
    targets = []
    entry = None
    strings = next(s.content for s in sections if s.name == ".strtab")
    for name_at, _, _, section_at, value, _ in struct.iter_unpack("<I2BH2Q", symbols):
        targets.append(addresses[section_at] + value if section_at in addresses else None)
        if strings[name_at:].split(b"\0", 1)[0] == b"entry":
            entry = targets[-1]
    for section in sections:
        if section.kind != _SHT_RELA or section.info not in addresses:
            continue
        for offset, info, addend in struct.iter_unpack("<2Qq", section.content):
            target, place = targets[info >> 32], addresses[section.info] + offset
            if info & 0xFFFFFFFF not in (_R_X86_64_PC32, _R_X86_64_PLT32) or target is None:
                raise ValueError(
                    f"a reference of type {info & 0xFFFFFFFF} at {offset} that can't be filled in"
                )
            struct.pack_into("<i", image, place - start, target + addend - place)
    if entry is None:
        raise ValueError("the function is not in the object")
    return bytes(image), entry


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(build(sys.argv[1]))
