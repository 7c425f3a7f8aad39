"""Tests that every implementation of an interface has to pass, to be derived from."""
