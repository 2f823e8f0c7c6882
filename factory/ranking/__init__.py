"""From comparisons of two to a strength of each: pure arithmetic, no models and no samples."""
