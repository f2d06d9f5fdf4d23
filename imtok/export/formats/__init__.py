"""Token data sets in the layouts that generators read: a file per consumer."""
