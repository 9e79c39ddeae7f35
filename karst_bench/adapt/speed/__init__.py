"""What makes a run cheaper and leaves its numbers alone: cached activations, shared backbones, fewer tokens, recomputation."""
