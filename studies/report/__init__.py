"""report.html of a run: curves, sample grids, distributions, settings."""
