"""Nets with logits for each voxel: (B, outputs, *grid)."""
