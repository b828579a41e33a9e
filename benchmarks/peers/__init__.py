"""The same weights and photos through other servers, side by side with ours: `python -m benchmarks.peers --help`."""
