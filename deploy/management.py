"""The management API over its unix socket. Only the owner of the run folder gets there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from deploy.run_folder import Running
from segserve.errors import ServerError


@dataclass(frozen=True)
class ModelState:
    """One version of one model, as the server sees it."""

    name: str
    version: str
    workers_ready: int
    workers: int

    @property
    def ready(self) -> bool:
        """`/ping` says 200 long before this holds."""
        return self.workers_ready > 0


class Management:
    """Raises httpx.TransportError where nobody listens (yet), ServerError for an answer that is no good."""

    def __init__(self, running: Running) -> None:
        self._running = running
        # base_url names nobody: the transport always goes to the socket
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=running.management_socket),
            base_url="http://management",
            timeout=10.0,
            trust_env=False,  # no proxy, and no password of ~/.netrc for a host of that name
        )

    def __enter__(self) -> Management:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, key: str = "management", **parameters: str) -> httpx.Response:
        """One call, with the token named `key` where tokens are on."""
        token = self._running.token(key)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self._http.request(method, path, params=parameters, headers=headers)

    def versions(self, name: str) -> list[ModelState]:
        """All versions of a model; empty if the server does not have it."""
        answer = self.request("GET", f"/models/{name}/all")
        if answer.status_code == 404:
            return []
        return [_state(model) for model in self._json(answer)]

    def default_version(self, name: str) -> str:
        """The version that answers where a request names none."""
        return str(self._json(self.request("GET", f"/models/{name}"))[0]["modelVersion"])

    def names(self) -> list[str]:
        """The names of all registered models."""
        return [
            model["modelName"] for model in self._json(self.request("GET", "/models", limit="1000"))["models"]
        ]

    def renew_tokens(self) -> None:
        """New tokens for inference and management, written to the key file; the old ones are refused from now on."""
        for kind in ("management", "inference"):
            answer = self.request("GET", "/token", key="API", type=kind)
            if answer.status_code != 200:
                raise ServerError(f"no new {kind} token: {answer.status_code} {answer.text.strip()}")

    @staticmethod
    def _json(answer: httpx.Response) -> Any:
        if answer.status_code != 200:
            raise ServerError(f"management answered {answer.status_code}: {answer.text.strip()[:300]}")
        return answer.json()


def _state(model: dict[str, Any]) -> ModelState:
    ready = sum(worker["status"] == "READY" for worker in model["workers"])
    return ModelState(model["modelName"], model["modelVersion"], ready, len(model["workers"]))
