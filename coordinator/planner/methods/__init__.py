"""Planning methods for one pipeline behind a broker: costs in, plan and bound out."""
