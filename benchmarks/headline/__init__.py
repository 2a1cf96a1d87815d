"""Federated beside pooled on real data: `python -m benchmarks.headline STUDY`; see docs/headline.md."""
