"""The HTTP edge: parses, calls the kernel, renders.  The only server code."""
