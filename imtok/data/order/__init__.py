"""In which order samples are seen, and how they become batches."""
