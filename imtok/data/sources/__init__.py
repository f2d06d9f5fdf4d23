"""Where images come from: a class and a YAML file for each kind of data."""
