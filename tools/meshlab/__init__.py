"""The development kit: clusters, networks, fakes, models and attackers for tests, benchmarks and the demo.

No installed package contains meshlab, and the product never imports it.
"""
