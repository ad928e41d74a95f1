"""The coordinator: decides which slices run on which nodes."""
