"""Defines the opens of scratch files and directories. `meshfs.exporter.rules.scratch` has the files themselves."""
