"""Load tests and measurements."""
