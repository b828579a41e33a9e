"""What Accept and Accept-Encoding say, as RFC 9110 has it (12.5.1 and 12.5.3). Pure functions on the headers' text."""

from __future__ import annotations

from collections.abc import Mapping


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether a client that sends this Accept-Encoding unpacks gzip by itself.

    No header would allow any coding, but those who send none (curl, say) write to a file whatever comes.
    """
    codings = media_ranges(accept_encoding or "")
    return codings.get("gzip", codings.get("*", 0.0)) > 0


def media_ranges(accept: str) -> dict[str, float]:
    """Media range in lower case without parameters → quality 0..1 (1 where it is missing or malformed)."""
    ranges: dict[str, float] = {}
    for part in accept.split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = _quality(value)
        if media_range:
            ranges[media_range] = quality
    return ranges


def _quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        return 1.0
    return quality if 0 <= quality <= 1 else 1.0


def rating(media_type: str, ranges: Mapping[str, float]) -> tuple[float, int]:
    """(quality, specificity) of the most specific range that covers `media_type`; (0, 0) if none does."""
    candidates = (media_type, media_type.split("/")[0] + "/*", "*/*")
    found = (
        (ranges[media_range], len(candidates) - rank)
        for rank, media_range in enumerate(candidates)
        if media_range in ranges
    )
    return next(found, (0.0, 0))
