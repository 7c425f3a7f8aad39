"""An initiator that sends whatever a test wants, and what stands between the ends: relays, recorders, proxies."""
