"""One run from configuration to record, the other actions, sweeps' states and hyper-parameter search."""
