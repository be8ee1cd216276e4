"""The thin library itself: losses, models, methods as data, training loops and measures; it knows no pages and no results."""

__version__ = "0.1.0"
