"""meshfsd is the program of an exporter."""
