"""From a checkpoint to a proven .mar: `python -m export.build --help`."""
