"""Objectives: what a training step minimises, a file each."""
