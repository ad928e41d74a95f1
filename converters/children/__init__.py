"""What runs in child processes only, in any interpreter: of SliceMQ, nothing but this package is imported here."""
