"""Before a run: finding, checking and unpacking what belongs under paths.data."""
