"""What may look at, or change, staged data before it is stored."""
