"""The parts of tools/test: `plan` decides the steps, and `runs` runs them."""
