"""Bring a new version into service without losing a request, or leave everything as it was.

    python -m deploy.rollout build/rooms/rooms.mar                       # the server of ./run
    python -m deploy.rollout new.mar --shadow photos --keep --watch-s 120

1 checks the package, 2 registers it beside the version in service and waits until it is READY, 3 probes it: golden
photos, time, memory, 4 lets both versions segment the same photos, 5 gives it a share of the traffic (--canary),
6 makes it the default, 7 watches it, 8 retires the old version, or keeps it warm. Whatever fails up to 7, Ctrl-C
included, undoes what was done, and a rollout that was killed until then is undone by the next one, by `deploy.rollback`
or by the next start of the server; what is left of 8 is done by the next one. Exit code: 0 in service, however 8 ended;
1 rolled back, with the reason and, where masks differ too much, a picture; 2 wrong usage, nothing touched, or the
server went away in 8; 130 interrupted, rolled back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy import canary, disagreement, incoming, journal, probe
from deploy.asking import Asker
from deploy.interrupts import Asked, Interrupts
from deploy.journal import Journal
from deploy.management import Management, ModelState
from deploy.metrics import Scrape, scrape
from deploy.ready import MAX_DEATHS, StartLogs
from deploy.rollout_options import RolloutConfig
from deploy.run_folder import Running, require_running
from deploy.undo import leaving, left_over, recover, retire, undo
from deploy.watch import Before, Watcher
from segserve.cli import run
from segserve.errors import CheckFailed, SegserveError, ServerError, UsageError
from segserve.spec import ModelSpec

INTERRUPTED = 130


def main(config: RolloutConfig) -> int:
    """Exit code as above; raises CheckFailed (1), UsageError (2), ServerError."""
    interrupts = Interrupts()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    running = require_running(config.run_dir)
    spec = incoming.check(config.mar)
    with journal.exclusive(Path(running.run_dir)), Management.of(running) as management:
        recover(running, management, lambda text: console.print(text, markup=False))
        rollout = Rollout(config, running, management, spec, console)
        try:
            interrupts.arm()
            rollout.go()
        except (Asked, SegserveError, OSError) as error:
            interrupts.disarm()
            said = rollout.back(str(error) or type(error).__name__)
            if not (rollout.committed or isinstance(error, Asked)):
                raise CheckFailed(said) from None
            console.print(said, markup=False)
            if not rollout.committed:
                return INTERRUPTED
        except BaseException:  # a mistake of ours must not leave a version half way in
            interrupts.disarm()
            console.print(rollout.back("this is a fault of deploy.rollout, please report it"), markup=False)
            raise
    if config.json:
        print(json.dumps(rollout.found))
    return 0


class Rollout:
    """One attempt. `found` is what each step saw, for --json."""

    def __init__(
        self, config: RolloutConfig, running: Running, management: Management, spec: ModelSpec, console: Console
    ) -> None:  # fmt: skip
        self._config, self._running, self._management = config, running, management
        self._new, self._console = spec, console
        self._run_dir, self._store = Path(running.run_dir), Path(running.model_store)
        self._journal: Journal | None = None
        self.found: dict[str, Any] = {"model": spec.name, "new": spec.version}
        old = self._in_service()
        self._old, self._compare = incoming.spec_of(self._store / old.file), old.ready
        if not old.ready:
            console.print(f"{old.name} {old.version} has no READY worker: there is nothing to compare with")
        if self._old.version != old.version:
            raise UsageError(
                f"the server loaded {old.name} {old.version} from {self._store / old.file}, which is version "
                f"{self._old.version} now: {incoming.PUT_BACK}"
            )
        self.found["old"] = self._old.version
        if not config.allow_class_change:
            incoming.require_same_classes(spec, self._old)
        if config.canary:
            canary.require_front(running)

    def _in_service(self) -> ModelState:
        """The version that is the default now. Raises: UsageError if there is none, or the new one is there already."""
        name = self._new.name
        versions = {state.version: state for state in self._management.versions(name)}
        if not versions:
            raise UsageError(
                f"the server at {self._running.url} does not serve {name}; it serves "
                f"{', '.join(self._management.names()) or 'nothing'}. Start it with --models {name}=FILE"
            )
        if self._new.version in versions:
            raise UsageError(
                f"{name} {self._new.version} is there already; give the new version another number: "
                "export.build --version"
            )
        return versions[self._management.default_version(name)]

    # --- the way there ------------------------------------------------------------------------------------------

    def go(self) -> None:
        """All steps. Raises whatever goes wrong; `back` undoes what was done until then."""
        name, new, old = self._new.name, self._new.version, self._old.version
        at_start = scrape(self._running.metrics_url)
        with self._step(f"{name} {new} beside {old}: READY"):
            folder = self._register()
        goldens = incoming.golden_photos(folder)
        with Asker(self._running, name, resting=new) as asker:
            before = self._probe(asker, goldens, at_start)
            watcher = Watcher(asker, self._management, self._running.metrics_url, (name, new), self._config)
            self._note(reached=True)
            if self._config.canary:
                with self._step(f"canary: {100 * self._config.canary:g} % of the requests"):
                    canary.set_canary(self._running, name, new, self._config.canary)
                    seen = watcher.watch(before, goldens, self._config.canary_s, default=False)
                    self.found["canary"] = dataclasses.asdict(seen)
            with self._step(f"{new} is the default"):
                asked = time.time()
                self._management.set_default(name, new)
                self.found["default_since"] = [asked, time.time()]  # somewhere between
                canary.clear_canary(self._running, name)
            before = dataclasses.replace(before, at_end=scrape(self._running.metrics_url))
            with self._step("watched"):
                seen = watcher.watch(before, goldens, self._config.watch_s, default=True)
                self.found["watch"] = dataclasses.asdict(seen)
        with self._step(f"{old} is {'kept warm' if self._config.keep else 'retired'}"):
            self._console.print(retire(self._running, self._management, self._commit()), markup=False)

    def _register(self) -> Path:
        """Returns: where it was unpacked."""
        spec = self._new
        self._journal = Journal(spec.name, spec.version, incoming.folder_name(spec), self._old.version)
        self._journal.save(self._run_dir)
        incoming.unpack(self._config.mar, self._store, self._journal.file)
        logs, worker = StartLogs(Path(self._running.log_dir)), f"{spec.name}_{spec.version}"

        def failed() -> str:
            return logs.worker_reason(worker) if logs.deaths(worker) >= MAX_DEATHS else ""

        self._management.register(self._journal.file, spec.name)
        self._management.wait_ready(spec.name, spec.version, self._config.ready_timeout_s, failed)
        return self._store / self._journal.file

    def _probe(self, asker: Asker, goldens: list[incoming.GoldenPhoto], at_start: Scrape) -> Before:
        name, new, old = self._new.name, self._new.version, self._old.version
        with self._step("golden photos, time, memory"):
            found: dict[str, Any] = {"golden_agreement": probe.golden(asker, goldens, new, f"{name} {new}")}
            ping_ms = math.inf
            if self._compare:
                speed = probe.speed(asker, goldens, old, new, self._config.max_slowdown)
                found |= {**dataclasses.asdict(speed), "slowdown": speed.slowdown()}
                ping_ms = speed.old_latency_ms
            state = self._management.version(name, new)
            found["grown_mib"] = probe.leak(asker, goldens, new, state.worker_pids if state else ())
            self.found["probe"] = found
        self._shadow(asker, goldens)
        return Before(old, at_start, scrape(self._running.metrics_url), ping_ms)

    def _shadow(self, asker: Asker, goldens: list[incoming.GoldenPhoto]) -> None:
        if self._new.classes != self._old.classes or not self._compare:
            return  # ids mean other things, which was allowed; or nobody can be asked
        with self._step("both versions on the same photos"):
            theirs = incoming.golden_photos(self._store / self._old_file())
            photos = itertools.chain(
                ((golden.name, golden.photo) for golden in (*goldens, *theirs)),
                # one after the other: the server needs the memory
                ((path.name, path.read_bytes()) for path in _files(self._config.shadow)),
            )
            new, old, classes = self._new.version, self._old.version, self._new.classes
            found = probe.shadow(asker, photos, old, new, len(classes))
            self.found["shadow"] = {
                "photos": found.photos, "overall": found.overall(),
                "by_class": {classes[c]: value for c, value in found.by_class().items()},
            }  # fmt: skip
            try:
                probe.require_agreement(found, lambda c: classes[c], self._config.max_disagreement)
            except CheckFailed as error:
                assert found.worst is not None
                path = self._config.out / f"{self._new.name}-{new}.jpg"
                disagreement.picture(found.worst, self._new.palette_rgb, old, new, path)
                raise CheckFailed(f"{error}\nThe photo with the largest difference: {path}") from None

    def _old_file(self) -> str:
        state = self._management.version(self._old.name, self._old.version)
        if state is None:
            raise ServerError(f"{self._old.name} {self._old.version} is no longer registered")
        return state.file

    def _note(self, **changes: Any) -> Journal:
        """In the journal, before it happens: on the disk first, so that `back` knows no more than the next one."""
        assert self._journal is not None
        noted = dataclasses.replace(self._journal, **changes)
        noted.save(self._run_dir)
        self._journal = noted
        return noted

    def _commit(self) -> Journal:
        """From here on nobody goes back. A restart does until `retire` has written models.json, which it does first."""
        assert self._journal is not None
        going, files = leaving(self._run_dir, self._journal, self._config.keep)
        return self._note(committed=True, going=going, files=files)

    # --- and back -----------------------------------------------------------------------------------------------

    @property
    def committed(self) -> bool:
        """Whether it is too late to go back: the new version is in service."""
        return self._journal is not None and self._journal.committed

    def back(self, reason: str) -> str:
        """Undo what was done, if it can be. Returns: what happened, in words. Raises: ServerError as `left_over`."""
        if self._journal is None:
            return reason
        try:
            way = left_over if self.committed else undo
            return f"{reason}\n{way(self._running, self._management, self._journal)}"
        except CheckFailed as error:
            return f"{reason}\n{error}"

    @contextlib.contextmanager
    def _step(self, text: str) -> Iterator[None]:
        started = time.monotonic()
        with self._console.status(text):
            yield
        took_s = time.monotonic() - started
        self.found.setdefault("steps_s", {})[text] = took_s
        self._console.print(f"{text} ({took_s:.1f} s)", markup=False)


def _files(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


if __name__ == "__main__":
    run(RolloutConfig, main)
