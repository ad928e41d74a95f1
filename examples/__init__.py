"""Programs that show SliceMQ at work."""
