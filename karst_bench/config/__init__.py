"""From words on a command line to one resolved configuration; no torch, no files of a run."""
