"""meshfsd, the process of an exporter."""
