"""Read models that may lag: one file each, filled behind a checkpoint by `kernel/projector.py`."""
