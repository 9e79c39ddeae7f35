"""Pages of docs/ that are read off models and readers; scripts/docs_*.py write them, and answer --help without torch."""
