"""One command per table that the README or docs quote."""
