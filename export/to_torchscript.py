"""ServedNet -> model.pt, traced, with batch, height and width left open.

Tracing keeps every shape that the network computes with (the pyramid builds its matrices from them), and does the
arithmetic of eager PyTorch bit for bit. It is not frozen: freezing folds batch norms, which costs that exactness.

    to_torchscript(ServedNet(net, meta.mean, meta.std).eval(), Path("build/model.pt"))
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from export.served_net import ServedNet, example_batch


def to_torchscript(served: ServedNet, path: Path) -> None:
    """Write the network as TorchScript. Raises OSError where the disk is full."""
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # deprecated in torch 2.13, and still what many servers take
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        # the trace is compared with eager PyTorch at many other sizes in export.parity, not once at its own
        traced = torch.jit.trace(served, (example_batch(),), check_trace=False)  # type: ignore[no-untyped-call]
        # into memory, because torch's own writer ends the whole process on a full disk
        torch.jit.save(traced, content)
    path.write_bytes(content.getbuffer())
