"""Model file in, slices out."""
