"""Export: tokens, codebook and pictures for autoregressive generators."""
