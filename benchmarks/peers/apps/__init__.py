"""What the peers run, in an environment of their own: nothing here imports segserve."""
