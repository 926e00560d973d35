"""The schema: numbered SQL files, applied forward by `migrations/runner.py`."""
