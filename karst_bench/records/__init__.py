"""One write-once JSON per run: its shape (schema), its name (identity), its place (store), its worker (claims)."""
