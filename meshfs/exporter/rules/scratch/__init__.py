"""The files of the scratch share, which are in memory. These modules know no request, and an open only as a Protocol."""
