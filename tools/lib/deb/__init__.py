"""The steps of tools/package: wheels, the tree of files, and the Debian package."""
