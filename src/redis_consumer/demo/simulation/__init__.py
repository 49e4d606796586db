"""Simulated microscopy with known truth: nuclei, tissue, spots in cells, movies, batches.

For the demonstration, which ships nobody's data, and for tests.  Nothing here knows models, jobs or Redis.
"""
