"""meshctl, the program of the administrator. It shows how mounts and exporters are, and has one module per verb."""
