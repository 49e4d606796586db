"""The demonstration: the whole pipeline on this machine, shown on pictures, nothing left running."""
