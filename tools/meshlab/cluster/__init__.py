"""Whole clusters of processes, with their config files and networks, for tests, benchmarks and the demo."""
