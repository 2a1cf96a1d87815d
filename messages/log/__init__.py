"""The event log as evidence: a Merkle tree over its entries, signed heads, witnesses, and files that prove it."""
