"""Intervals, tests, ranks and the pages that show them; arithmetic only."""
