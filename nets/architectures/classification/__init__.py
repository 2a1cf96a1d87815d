"""Nets with logits for each case: (B, outputs)."""
