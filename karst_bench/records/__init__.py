"""One write-once JSON per run: its types (record, facts), its name (identity), its place (store), its worker (lease)."""
