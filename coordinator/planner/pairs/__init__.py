"""Planning over links between pairs of nodes."""
