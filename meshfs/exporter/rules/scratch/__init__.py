"""The files of the scratch share, which are in memory. These modules know opens by a Protocol, and no requests."""
