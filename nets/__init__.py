"""Networks by name, weights ↔ arrays, model digests. torch: `build`, `measure`, `weights`, `initial`, `export`."""
