"""Evaluation: metrics over a data set, and the report."""
