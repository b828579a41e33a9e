"""From labelled photos to a checkpoint: `python -m training.train --help`."""
