"""meshfsd: the exporter's process."""
