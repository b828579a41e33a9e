"""Start the server, talk to it, change what it serves."""
