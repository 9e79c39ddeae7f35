"""W&B and TensorBoard: a client in the training process, a worker process for each; the record is the source."""
