"""A consortium's broker: definitions (topology, users, permissions), and a private node for trying and testing."""
