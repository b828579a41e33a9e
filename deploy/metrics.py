"""stub"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Histogram:
    count: float = 0.0

    def minus(self, other: Histogram) -> Histogram:
        return self

    def mean_s(self) -> float:
        return 1.0


class Scrape:
    def answers(self, model: str, version: str) -> dict[int, float]:
        return {}

    def steps(self, model: str, version: str, step: str) -> Histogram:
        return Histogram()

    def class_shares(self, model: str, version: str) -> dict[str, float]:
        return {}


def scrape(url: str) -> Scrape:
    return Scrape()
