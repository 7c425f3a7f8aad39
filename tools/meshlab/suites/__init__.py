"""Base classes of tests that every implementation of an interface has to pass."""
