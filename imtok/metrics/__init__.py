"""Metrics: torchmetrics classes with sum-only states, a file each."""
