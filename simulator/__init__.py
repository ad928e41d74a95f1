"""A simulated cluster: the pure cores of coordinator, nodes and clients under one seeded broker and clock."""
