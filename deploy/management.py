"""The management API as Python calls, over the run folder's unix socket, which only its owner reaches.

    with Management.of(running) as management:
        management.register("rooms-2.0", "rooms")          # returns at once; nothing waits for the new version
        management.wait_ready("rooms", "2.0", timeout_s=120)
        management.set_default("rooms", "2.0")
        management.drain("rooms", "1.0", timeout_s=60)
        management.unregister("rooms", "1.0")

Tokens are read from the key file for each call, and renewed when the server says that they are no longer valid.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from deploy.processes import exists, processor_time_s, wait_until
from deploy.run_folder import Running
from segserve.errors import ServerError, Unreachable, UsageError

READ_TIMEOUT_S = 10.0
CHANGE_TIMEOUT_S = 60.0
"""Registering reads files and starts processes on a machine that may be busy."""
WORKERS_END_S = 10.0
POLL_S = 0.1
IDLE_S = 0.02
"""Processor time between two looks that an idle worker may take."""


@dataclass(frozen=True)
class ModelState:
    """One version of one model, as the server sees it. `file` is what it was registered from, in the model store."""

    name: str
    version: str
    workers_ready: int
    workers: int
    worker_pids: tuple[int, ...] = ()
    pending: int = 0
    file: str = ""

    @property
    def ready(self) -> bool:
        """`/ping` says 200 long before this holds."""
        return self.workers_ready > 0


class Management:
    """Raises Unreachable where nobody listens (yet), ServerError for an answer that is no good.

    socket: its path. token: gives the token of a kind, None where they are off.
    """

    def __init__(self, socket: str, token: Callable[[str], str | None]) -> None:
        self._token = token
        # base_url names nobody: the transport always goes to the socket
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=socket),
            base_url="http://management",
            timeout=READ_TIMEOUT_S,
            trust_env=False,  # no proxy, and no password of ~/.netrc for a host of that name
        )

    @classmethod
    def of(cls, running: Running) -> Management:
        """Of a server that `deploy.server` started."""
        return cls(running.management_socket, running.token)

    def __enter__(self) -> Management:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, key: str = "management", **parameters: str) -> httpx.Response:
        """One call, with the token named `key` where tokens are on. An expired token is renewed, once."""
        answer = self._send(method, path, key, parameters)
        if key != "API" and answer.status_code == 400 and "Token Authorization failed" in answer.text:
            self.renew_tokens()
            answer = self._send(method, path, key, parameters)
        return answer

    def _send(self, method: str, path: str, key: str, parameters: dict[str, str]) -> httpx.Response:
        timeout_s = READ_TIMEOUT_S if method == "GET" else CHANGE_TIMEOUT_S
        try:
            token = self._token(key)  # its file comes and goes with the server
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return self._http.request(method, path, params=parameters, headers=headers, timeout=timeout_s)
        except (httpx.TransportError, UsageError) as error:
            raise Unreachable(
                f"the management API does not answer ({error or type(error).__name__}): the server is starting, or "
                "gone; see `python -m deploy.status`"
            ) from None

    # --- what there is ------------------------------------------------------------------------------------------

    def versions(self, name: str) -> list[ModelState]:
        """All versions of a model; empty if the server does not have it."""
        answer = self.request("GET", f"/models/{name}/all")
        if answer.status_code == 404:
            return []
        return [_state(model) for model in self._checked(answer, f"describe {name}").json()]

    def version(self, name: str, version: str) -> ModelState | None:
        """One of them; None if the server does not have it."""
        return next((state for state in self.versions(name) if state.version == version), None)

    def default_version(self, name: str) -> str:
        """The version that answers where a request names none."""
        answer = self._checked(self.request("GET", f"/models/{name}"), f"describe {name}")
        return str(answer.json()[0]["modelVersion"])

    def names(self) -> list[str]:
        """The names of all registered models."""
        answer = self._checked(self.request("GET", "/models", limit="1000"), "list the models")
        return [model["modelName"] for model in answer.json()["models"]]

    # --- what changes it ----------------------------------------------------------------------------------------

    def register(self, file: str, name: str) -> None:
        """A model archive, or better its unpacked folder, of the model store. Returns at once; workers start later.

        An archive of 250 MB keeps every other request waiting for a second while TorchServe unpacks it, a folder of
        any size for some milliseconds.
        """
        answer = self.request("POST", "/models", url=file, model_name=name, synchronous="false")
        self._checked(answer, f"register {file} as {name}")

    def wait_ready(
        self, name: str, version: str, timeout_s: float, failed: Callable[[], str] = lambda: ""
    ) -> None:
        """Return when all its workers are READY. `failed` says why there is no use in waiting any longer, or "".

        Raises: ServerError when that is so, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            state = self.version(name, version)
            if state is not None and 0 < state.workers == state.workers_ready:
                return
            if reason := failed():
                raise ServerError(f"{name} {version} cannot start: {reason}")
            if time.monotonic() > deadline:
                found = (
                    "it is not registered" if state is None else f"{state.workers_ready} of {state.workers}"
                )
                raise ServerError(
                    f"{name} {version} is not READY after {timeout_s:.0f} s (workers READY: {found}); see the logs, "
                    "or allow more time"
                )
            time.sleep(POLL_S)

    def set_default(self, name: str, version: str) -> None:
        """From now on requests that name no version go there."""
        answer = self.request("PUT", f"/models/{name}/{version}/set-default")
        self._checked(answer, f"make {version} the default of {name}")

    def drain(self, name: str, version: str, timeout_s: float, settle_s: float = 2.0) -> bool:
        """Wait until nothing waits for that version and its workers do nothing, for `settle_s` without a break.

        TorchServe counts what waits, not what a worker has taken, so its workers' processor time is looked at too.
        What is under way when a version is unregistered is never answered. Returns: whether it came to that in time.
        """
        quiet_since, used_s = time.monotonic(), 0.0

        def drained() -> bool:
            nonlocal quiet_since, used_s
            state, now = self.version(name, version), time.monotonic()
            if state is None:
                return True
            before_s, used_s = used_s, processor_time_s(state.worker_pids)
            if state.pending or used_s - before_s > IDLE_S:
                quiet_since = now
            return now - quiet_since >= settle_s

        return wait_until(drained, timeout_s)

    def unregister(self, name: str, version: str) -> None:
        """End its workers and forget it. No error if it is not there.

        TorchServe 0.12 may stumble over a worker that has just gone into loading (1 of 168 such calls: 500, "job" is
        null), after it has forgotten the version: so what a 500 says is asked once more.

        The server answers before they have ended. They are waited for, because until then they write what they compile
        into the version's folder, and make it anew where somebody removed it.
        """
        state = self.version(name, version)
        answer = self.request("DELETE", f"/models/{name}/{version}")
        if answer.status_code == 500:
            answer = self.request("DELETE", f"/models/{name}/{version}")
        if answer.status_code != 404:
            self._checked(answer, f"unregister {name} {version}")
        pids = state.worker_pids if state else ()
        wait_until(lambda: not any(map(exists, pids)), WORKERS_END_S)

    def renew_tokens(self) -> None:
        """New tokens for inference and management, written to the key file; the old ones are refused from now on."""
        for kind in ("management", "inference"):
            answer = self._send("GET", "/token", "API", {"type": kind})
            if answer.status_code != 200:
                raise ServerError(f"no new {kind} token: {answer.status_code} {answer.text.strip()}")

    @staticmethod
    def _checked(answer: httpx.Response, wanted: str) -> httpx.Response:
        """Raises ServerError with what the server said and what to do."""
        if answer.is_success:
            return answer
        try:
            said = str(answer.json()["message"])
        except (ValueError, KeyError, TypeError):
            said = answer.text.strip()
        advice = _ADVICE.get(
            answer.status_code, "see ts_log.log and model_log.log in the log folder of the server"
        )
        raise ServerError(
            f"the server would not {wanted}: {answer.status_code} {said[:300] or 'without a reason'}; {advice}"
        )


_ADVICE = {
    400: "check the name of the file, and with tokens on the key file of that server",
    403: "only files of the server's model store can be registered",
    404: "`python -m deploy.status` lists what there is",
    409: "that version is there already: give the new one another with export.build --version",
}


def _state(model: dict[str, Any]) -> ModelState:
    ready = sum(worker["status"] == "READY" for worker in model["workers"])
    pids = tuple(int(worker["pid"]) for worker in model["workers"] if int(worker["pid"]) > 0)
    pending = int((model.get("jobQueueStatus") or {}).get("pendingRequests", 0))
    return ModelState(
        model["modelName"],
        model["modelVersion"],
        ready,
        len(model["workers"]),
        pids,
        pending,
        model["modelUrl"],
    )
