"""Where certificates of signed images come from."""
