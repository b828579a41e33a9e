"""Take over a PSPNet, or a ResNet to start a training from, that another repository trained.

    python -m training.import_checkpoint train_epoch_100.pth --from semseg --out ade.safetensors --classes names.txt
    python -m training.import_checkpoint encoder.pth decoder.pth --from csail --out csail.safetensors
    python -m training.import_checkpoint resnet50.pth --from torchvision --out trunk.safetensors
    python -m training.import_checkpoint last.pt --take ema --out ade.safetensors

Every tensor finds its place or nothing is written. What the tensors do not say (normalisation, align_corners, where
strides and dilations are) is taken from the options, else from the configuration that MMSegmentation writes into its
files, else as the source's repository has it; all of it is recorded in the checkpoint and honoured by training, export
and serving. `training.doctor` checks it against photos.
"""

from __future__ import annotations

import json
import re
import shlex

from rich.console import Console

from segserve import cli
from segserve.errors import UsageError
from segserve.labels import IGNORE_LABEL
from segserve.spec import sha256_file
from training import mapping
from training.checkpoint import save_checkpoint
from training.class_names import arrange, read_names
from training.foreign_file import Read, read
from training.import_options import ImportConfig, with_habits
from training.import_size import InputSize, input_size, remarks
from training.meta import CheckpointMeta
from training.pspnet import normalisation

__all__ = ["ImportConfig", "main"]

LISTED = 24  # names of tensors that were left out; some files have hundreds
CSAIL_BEFORE = (
    "  CSAIL's older networks were fed otherwise: if this is one, import it again with --channel-order bgr --mean "
    "102.9801 115.9465 122.7717 --std 1 1 1"
)


def rgb_255(config: ImportConfig, content: Read) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std as the checkpoint has them: RGB, of pixels from 0 to 255."""
    said = content.habits
    if config.mean is not None and config.std is not None:
        scale, turn = 255 / config.pixel_scale, -1 if config.channel_order == "bgr" else 1
        mean, std = (tuple(value * scale for value in values[::turn]) for values in (config.mean, config.std))
        return mean, std
    if said.mean is not None and said.std is not None:
        # where an option contradicts the file's order, these are still of the file's channels
        turn = -1 if said.channel_order == "bgr" else 1
        return said.mean[::turn], said.std[::turn]
    return normalisation("pspnet50")


def describe(
    config: ImportConfig, content: Read, net: mapping.Mapped, size: InputSize, theirs: tuple[str, ...],
    names: tuple[str, ...],
) -> CheckpointMeta:  # fmt: skip
    """The description: what serving must know as fields, where it comes from as provenance.

    `theirs`: names of the outputs in the file, `names`: of those that are left, in their order.
    """
    mean, std = rgb_255(config, content)
    given = config.align_corners
    return CheckpointMeta(
        net.preset, names, IGNORE_LABEL, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]),
        content.source.align_corners if given is None else given, size.height, size.width,
        epoch=0, metrics={}, layout=net.layout, bn_eps=config.bn_eps,
        provenance=origin(config, content, net) | {"input_size": f"{size}, {size.reason}"}
        | outputs(config, net, theirs, names),
    )  # fmt: skip


def origin(config: ImportConfig, content: Read, net: mapping.Mapped) -> dict[str, str]:
    """Provenance: what the weights were read from, and what was not taken."""
    said, left_out = content.habits, sorted({*content.left_out, *net.left_out})
    more = len(left_out) - LISTED
    return {
        "imported_from": content.source.name,
        "files": ", ".join(f"{path.name} sha256 {sha256_file(path)}" for path in config.files),
        "taken_from": content.taken_from,
        "fed": f"{config.channel_order}, normalised for pixels of 0 to {config.pixel_scale}; here: rgb, 0 to 255",
        "left_out": ", ".join(left_out[:LISTED]) + f" and {more} more" * (more > 0) or "nothing",
        "file_says": said.words() or "nothing",
        "file_leaves_open": ", ".join(said.unclear) or "nothing",
    }


def outputs(
    config: ImportConfig, net: mapping.Mapped, theirs: tuple[str, ...], names: tuple[str, ...]
) -> dict[str, str]:
    """Provenance: which outputs of the file those here are. The doctor reads `outputs_taken`."""
    found = {"class_order": "as in the file", "outputs_left_out": "nothing"}
    if net.threshold is not None:
        found["made_of_one_output"] = f"class 1 above {net.threshold:g}"
    if config.order is not None:
        found["class_order"] = f"rearranged as in {config.order.name}"
        found["outputs_left_out"] = ", ".join(name for name in theirs if name not in names) or "nothing"
        found["outputs_taken"] = f"{', '.join(str(theirs.index(name)) for name in names)} of {len(theirs)}"
    return found


def main(config: ImportConfig) -> None:
    content = read(config.files, config.source, config.take)
    given, config = config, with_habits(config, content)
    size = input_size(config.input_height, config.input_width, content.habits)
    choices = mapping.Choices(
        config.stride_in or "3x3", config.contracted, config.multi_grid, content.habits.threshold
    )
    net = mapping.convert(content.tensors, content.source, choices)
    state = dict(net.state)
    if config.channel_order == "bgr":
        first = "backbone.stem.0.0.weight"
        state[first] = state[first].flip(1)
    names = theirs = class_names(config, content, net.num_classes)
    if config.order is not None:
        names, state = arrange(state, names, read_names(config.order))
    meta = describe(config, content, net, size, theirs, names)
    save_checkpoint(config.out, state, meta)
    more = remarks(size, content.habits, trunk=not meta.classes) + guesses(given, content)
    tell(config, meta, net, more + left_out(content, net))


def guesses(config: ImportConfig, content: Read) -> list[str]:
    """What neither the options as given nor the file's configuration, where there is one, says."""
    said, lines = content.habits, list[str]()
    if not content.configured:
        return lines
    taken = {
        "mean and std: taken are ImageNet's (--mean, --std)": config.mean is None and said.mean is None,
        "channel order: taken is RGB (--channel-order)": config.channel_order is None and said.channel_order is None,
    }  # fmt: skip
    if unsaid := [what for what, is_so in taken.items() if is_so]:
        lines.append(f"the file's configuration does not say {', nor '.join(unsaid)}")
    if said.unclear:
        open_ = "the file's configuration leaves open which of these holds, and none was taken"
        lines.append(f"{open_}: {', '.join(said.unclear)}")
    return lines


def left_out(content: Read, net: mapping.Mapped) -> list[str]:
    """The heads that are not here, and not all their names."""
    found = (re.match(content.source.left_out, name) for name in net.left_out)
    heads = sorted({one[0].rstrip(".") for one in found if one})
    return [f"left out, as no segmentation needs it: {', '.join(heads)}"] if heads else []


def class_names(config: ImportConfig, content: Read, count: int) -> tuple[str, ...]:
    """As many names as the classifier has outputs: of the option, of the file, or numbers. Raises UsageError.

    What a file without a classifier calls its outputs is of a network that is not there.
    """
    if count == 0 and config.classes is None:
        return ()
    names = content.classes if config.classes is None else read_names(config.classes)
    where = config.classes or config.files[0]
    if not names:
        return tuple(f"class {index}" for index in range(count))
    if (twice := sorted({name for name in names if names.count(name) > 1})) or not all(map(str.strip, names)):
        wrong = f"names {twice} twice" if twice else "an output without a name"
        raise UsageError(f"{where} has {wrong}, expected a different name for each: give them with --classes")
    if len(names) != count:
        hint = (
            "; if output 0 stands for unlabelled pixels, name it in the first line (--order can leave it out)"
        )
        one_less = len(names) == count - 1
        raise UsageError(
            f"{where} has {len(names)} names, the classifier {count} outputs{hint if one_less else ''}"
        )
    return names


def tell(config: ImportConfig, meta: CheckpointMeta, net: mapping.Mapped, more: list[str]) -> None:
    """What was taken for granted, or from mmseg's configuration: the tensors do not say it. `more`: lines of it."""
    if config.as_json:
        print(json.dumps({"out": str(config.out), "tensors": len(net.state)} | json.loads(meta.to_json())))
        return
    console = Console(soft_wrap=True)  # a command that is copied must stay whole
    what = f"{len(meta.classes)} classes" if meta.classes else "a trunk, for --pretrained-from"
    console.print(f"{config.out}: {meta.preset} of {meta.provenance['imported_from']}, {what}")
    console.print(f"  weights from {meta.provenance['taken_from']}", markup=False, highlight=False)
    if (dropped := meta.provenance["outputs_left_out"]) != "nothing":
        console.print(f"  outputs that --order leaves out: {dropped}", markup=False, highlight=False)
    console.print(
        f"  mean {meta.mean}, std {meta.std} (RGB, 0 to 255); source fed {(config.channel_order or '').upper()}"
    )
    console.print(f"  align_corners {meta.align_corners}, bn_eps {meta.bn_eps}, {meta.layout}")
    if (said := meta.provenance["file_says"]) != "nothing":
        console.print(f"  of these the file says itself: {said}", markup=False, highlight=False)
    for line in more:
        console.print(f"  {line}", markup=False, highlight=False)
    if net.threshold is not None:
        console.print(
            f"  one output made two: a pixel is of class 1 where the sigmoid is above {net.threshold:g}"
        )
    if meta.provenance["imported_from"] == "csail":
        console.print(CSAIL_BEFORE, markup=False, highlight=False)
    console.print(f"  The tensors do not say these; {check(config, meta)}", markup=False, highlight=False)


def check(config: ImportConfig, meta: CheckpointMeta) -> str:
    """How to find out whether what was taken for granted holds: the doctor compares masks, and a trunk makes none."""
    if meta.classes:
        return "check them: python -m training.doctor --help"
    return (
        "hold them against how its repository builds and feeds it: a trunk makes no masks to check. Then train: python "
        f"-m training.train --data dataset.toml --out runs/new --preset {meta.preset} "
        f"--pretrained-from {shlex.quote(str(config.out))}"
    )


if __name__ == "__main__":
    cli.run(ImportConfig, main)
