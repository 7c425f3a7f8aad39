"""The development kit: clusters, networks, fakes, models and attackers for tests, benchmarks and the demo.

It is in no package that is installed, and the product never imports it.
"""
