"""Measurements of the proxy beside nginx and a straight connection; see README.md."""
