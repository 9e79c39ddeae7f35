"""W&B and TensorBoard as mirrors of a run: a client in the training process, a worker process for each."""
