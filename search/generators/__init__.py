"""Generators: where images come from."""
