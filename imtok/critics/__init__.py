"""Critics: what tells photographs from reconstructions, a file each."""
