"""meshctl: asks mounts and exporters how they are, and makes keys. One module per verb."""
