"""Training and evaluation: knows Method and Batches; not Hydra, trackers or files."""
