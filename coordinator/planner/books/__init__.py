"""Open books: every number of a plan as a file, and back."""
