"""Why a file of weights cannot be opened: what it is instead, and what its owner does about it.

    raise CheckpointError(refusal(path, error))

Judged by its first bytes: names lie, and what torch says of a file that it did not write is about pickles, and advises
to open it with programs and all.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

PICKLE = re.compile(rb"\x80[\x02-\x05]")
TORCHS = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a number that torch.save wrote first before 1.6
FIRST = 64
HDF5 = (
    "HDF5, as Keras and TensorFlow save: expected PyTorch's weights. Read it with h5py, and save its arrays with "
    "torch.save({name: torch.as_tensor(array)}) under the names of a network that is known here, kernels turned with "
    "permute(3, 2, 0, 1)"
)
WEB_PAGE = "a web page, not the file: download it again, from the link to the file itself (signed in, if one must be)"
POINTER = "a pointer of Git LFS, not the file: fetch that with git lfs pull"
ARCHIVE = "a zip archive, and not one of torch.save: unpack it, and import what is in it"


def refusal(path: Path, error: Exception) -> str:
    """The sentence for a file that `error` was raised for."""
    with path.open("rb") as file:
        start = file.read(FIRST)
    if kind := _kind(path, start):
        return f"{path} is {kind}"
    pickled = PICKLE.match(start) is not None
    torchs = TORCHS in start or start.startswith(b"PK")
    unsafe = "Unpickling" in type(error).__name__ or (pickled and not torchs)
    if not (pickled or torchs) or not unsafe or isinstance(error, EOFError):
        return f"{path} is no whole file of weights ({_reason(error, start)}): copy it again"
    return (
        f"{path} holds more than tensors, or was not pickled as torch does, and opening that could run a program "
        f"({_wanted(error, start)}). If you trust where it comes from, strip it where it was trained, then import the "
        f'result: python -c "{_strip(path, plain=not torchs)}"'
    )


def _kind(path: Path, start: bytes) -> str:
    """What the file is and what to do, if it is of a kind that is known; else empty."""
    if start.startswith(b"\x89HDF"):
        return HDF5
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return WEB_PAGE
    if start.startswith(b"version https://git-lfs"):
        return POINTER
    if not start.startswith(b"PK"):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            return _kind_of_zip(archive.namelist(), path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return ""  # torn, or of a version that zipfile can't read


def _kind_of_zip(names: list[str], path: Path) -> str:
    new = f"{path.stem}-weights.pth"
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        return (
            "a TorchScript program, expected a state dict: where it was trained save net.state_dict(), not the "
            'network; or import what this makes of it: python -c "import torch; '
            f"torch.save(torch.jit.load({path.name!r}, map_location='cpu').state_dict(), {new!r})\""
        )
    if names and all(name.endswith(".npy") for name in names):
        return (
            'arrays of NumPy, expected tensors of PyTorch: import what this makes of it: python -c "import numpy, '
            "torch; torch.save({name: torch.as_tensor(array) for name, array in "
            f'numpy.load({path.name!r}).items()}}, {new!r})"'
        )
    return "" if any(name.endswith("data.pkl") for name in names) else ARCHIVE


def _reason(error: Exception, start: bytes) -> str:
    """The first sentence of the error, without torch's advice to open the file all the same."""
    first = re.split(r"\. |\n", str(error).strip())[0]
    if not first or "weights" in first.lower() or "torch.load" in first:
        return f"it begins with {start[:8]!r}" if start else "it is empty"
    return first


def _wanted(error: Exception, start: bytes) -> str:
    """What of the pickle is not opened."""
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it asks for {found[1]}"
    return f"pickle protocol {start[1]}" if PICKLE.match(start) else "another pickle protocol"


def _strip(path: Path, *, plain: bool) -> str:
    """A program for a shell's double quotes: tensors, class names and configuration of a file, or of a network.

    Mappings within mappings stay, so that the importer can choose among them; arrays become tensors. It fails where no
    weights are left. `plain`: a pickle that torch did not write. Where the file was trained, Python may be 3.6, and
    torch too old for `weights_only`: given `pickle_module`, any torch opens the whole file.
    """
    opened = (
        f"pickle.load(open({path.name!r}, 'rb'), encoding='latin1')"
        if plain
        else f"torch.load({path.name!r}, map_location='cpu', pickle_module=pickle)"
    )
    return (
        f"import pickle, sys, torch; c = {opened}; "
        "d = lambda x: x.state_dict() if hasattr(x, 'state_dict') and not isinstance(x, type) else x; "
        "c = c if isinstance(c, dict) else {'model': c}; m = c.get('meta'); m = m if isinstance(m, dict) else {}; "
        "n = m.get('CLASSES') or (m.get('dataset_meta') or {}).get('classes') or (); "
        "a = lambda x: torch.as_tensor(x) if type(x).__name__ == 'ndarray' and x.dtype.kind in 'biuf' else None; "
        "t = lambda x: x if torch.is_tensor(x) else a(x); "
        "w = lambda x: {k: y for k, y in [(k, w(d(v))) for k, v in x.items() if not str(k).startswith('optim')] "
        "if y is not None} or None if isinstance(x, dict) else t(x); "
        "h = lambda x: any(h(v) if isinstance(v, dict) else '.' in str(k) for k, v in x.items()); s = w(c) or {}; "
        "h(s) or sys.exit('no weights found under its keys: ' + ', '.join(map(str, c))); "
        "s['meta'] = {'CLASSES': list(n), 'config': str(m.get('config') or m.get('cfg') or '')}; "
        f"torch.save(s, {path.stem + '-weights.pth'!r})"
    )
