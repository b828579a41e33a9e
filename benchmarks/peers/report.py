"""What was measured, as rows for people and as a document for machines."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import host
from benchmarks.peers.catalogue import Model
from benchmarks.peers.measure import Plan, Result

PACKAGES = ("bentoml", "litserve", "ray", "onnxruntime", "torch", "pillow")


def rows(ours: Result, peers: Sequence[Result]) -> list[dict[str, Any]]:
    """A row for each server; `ours / peer` is how many times as many images/s we answer."""
    return [
        {
            "server": result.peer.title,
            "workers x threads x batch": "as packaged" if result is ours else str(result.settings),
            "clients": result.best.concurrency,
            "images/s": result.best.images_per_s,
            "ours / peer": None if result is ours else ours.best.images_per_s / result.best.images_per_s,
            "p50 ms": result.best.latency_ms(50),
            "p95 ms": result.best.latency_ms(95),
            "memory MiB": result.peak_mib,
            "labels equal %": f"{100 * result.lowest_agreement:.3f}",
        }
        for result in (ours, *peers)
    ]


def document(
    ours: Result, peers: Sequence[Result], failures: Mapping[str, str], plan: Plan, model: Model
) -> dict[str, Any]:
    """Everything, for `peers.json`."""
    described = host.describe()
    return {
        **described,
        "versions": {**described["versions"], "peers": peer_versions(plan.python)},
        "model": {
            "name": model.spec.name, "preset": model.spec.preset, "classes": len(model.spec.classes),
            "input": f"{model.spec.input.width}x{model.spec.input.height}", "engine": ours.engine,
        },
        "photos": [{"size": photo.name, "kB": round(len(photo.jpeg) / 1000)} for photo in plan.photos],
        "servers": {result.peer.name: details(result) for result in (ours, *peers)},
        "failures": dict(failures),
        "rows": rows(ours, peers),
    }  # fmt: skip


def details(result: Result) -> dict[str, Any]:
    """Every load, not only the best, and the sweep that found the settings."""
    return {
        "sweep_images_per_s": result.sweep,
        "answers_judged": result.answers_judged,
        "lowest_agreement": result.lowest_agreement,
        "loads": [
            {
                "clients": load.concurrency,
                "answers": len(load.good),
                "images_per_s": load.images_per_s,
                "p50_ms": load.latency_ms(50),
                "p95_ms": load.latency_ms(95),
                "body_kB": round(
                    sum(answer.num_bytes for answer in load.good) / max(1, len(load.good)) / 1000
                ),
            }
            for load in result.loads
        ],
    }


def markdown(document: Mapping[str, Any]) -> str:
    """Head, table, and what failed."""
    model = document["model"]
    lines = [
        f"{model['preset']} {model['input']}, {model['classes']} classes, photos of 0.3 to 3 megapixels, masks at "
        "photo size; the same weights, photos and client for all",
        host.headline(document),
        f"`{document['command']}`",
        "",
        host.markdown(document["rows"]),
    ]
    if "our_decoder_agreement" in document:
        share = 100 * document["our_decoder_agreement"]
        lines += [
            "",
            f"Our decoder's short cuts alone leave {share:.2f} % of the fp32 labels as they are, or more.",
        ]
    lines += [f"\n{name}: {reason}" for name, reason in document["failures"].items()]
    return "\n".join(lines)


def peer_versions(python: Path) -> dict[str, str]:
    """Of the packages of the peers' environment; empty where there is none, as TorchServe alone needs none of it."""
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {PACKAGES}}}))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # what was measured is worth more than these
        return {}
    found: dict[str, str] = json.loads(done.stdout)
    return found
