"""An initiator and an exporter that send whatever a test wants, and relays and proxies to put between the ends."""
