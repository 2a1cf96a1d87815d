"""Networks by name, weights ↔ arrays, model digests. torch only in `build`, `weights`, `initial` and `export`."""
