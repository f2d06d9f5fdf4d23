"""Losses: what makes a reconstruction good, a file each."""
