"""Ways for bytes to come in."""
