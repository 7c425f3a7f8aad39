"""Keeps the files of the scratch share in memory. These modules know opens by a Protocol, and no requests."""
