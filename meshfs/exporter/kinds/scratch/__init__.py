"""The open of a scratch file or directory; `meshfs.exporter.rules.scratch` has the files themselves."""
