"""Measurements, each a ratio to something else measured in the same run. Never part of the tests."""
