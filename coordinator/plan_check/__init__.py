"""Checks a plan file against its costs file; shares no code with what made the plan."""
