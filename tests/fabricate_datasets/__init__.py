"""Data sets in miniature, in their official layouts: synthetic hands, fabricated annotations, no real data."""
