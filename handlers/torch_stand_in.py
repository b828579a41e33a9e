"""Takes the place of torch in a worker for as long as TorchServe's own modules are imported.

They import torch (a second and 200 MB in each worker) to ask of every answer whether it is a `torch.Tensor`. Ours
are bytes. Packaged as torch/__init__.py: a worker looks in the unpacked .mar before it looks in site-packages. The
handler then takes it away, so an engine that needs torch imports the real one.
"""

from __future__ import annotations


class Tensor:
    """What no answer is an instance of."""


def __getattr__(name: str) -> object:
    raise AttributeError(
        f"torch.{name} is not there before the handler is: this is the stand-in that the .mar brings for TorchServe's "
        "own imports"
    )
