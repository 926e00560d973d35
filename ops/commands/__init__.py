"""One file a command; `ops/cli.py` loads the one that is asked for."""
