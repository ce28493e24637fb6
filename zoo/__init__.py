"""pocketzoo: small image classifiers with numbers that anyone can check."""
