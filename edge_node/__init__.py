"""The edge node: runs the slices that it is given."""
