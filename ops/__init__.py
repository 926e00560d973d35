"""Running the service: the command line, the embedded database, benchmarks and drills."""
