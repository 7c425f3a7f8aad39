"""The front end that reaches the kernel through libfuse and pyfuse3. No other package imports pyfuse3."""
