"""Everything else that drops in: import methods, import steps, notification sinks, auth backends."""
