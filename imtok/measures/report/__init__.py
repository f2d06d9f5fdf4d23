"""What a measurement leaves behind: numbers in words, tables, pages and comparisons."""
