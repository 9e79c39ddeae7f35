"""The command line."""

import os

# OpenMP's threads spin while they wait; beside busy processes that made KARST's demo 9 times slower (72 s for two epochs, 22
# by sleeping, measured beside three of them). Read when torch is loaded, which nothing does before this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
