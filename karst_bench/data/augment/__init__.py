"""Crops, flips, RandAugment and erasing: drawn once as a plan, carried out by Pillow or on tensors."""
