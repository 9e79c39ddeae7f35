"""Decode once: the pixels of a split as one memory-mapped file, checked when it is read."""
