"""The files of the scratch share: they lie in memory. These modules know an open only as a Protocol, and no request."""
