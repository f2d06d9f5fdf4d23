"""From the bytes of a file to pixels, crops and colours."""
