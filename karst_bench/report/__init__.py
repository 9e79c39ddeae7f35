"""Tables, figures and statistics from records and the paper's printed numbers, without torch or Hydra."""
