"""The sections of docs/results-mini.md, each written from records alone."""
