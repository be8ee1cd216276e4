"""Data sets: synthetic curves, the papers' image sets in their public layouts, digits turned and shifted."""
