"""One module for each family of ops; `benchmarks.catalogue` puts them together."""
