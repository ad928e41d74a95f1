"""Numbers in, plan out."""
