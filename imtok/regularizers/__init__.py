"""Regularisers: which tokens stay or change in training, a file each."""
