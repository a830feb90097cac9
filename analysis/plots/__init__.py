"""Pictures of what analysis measures, by matplotlib: heatmaps, clustered matrices, maps and histograms.

One palette (viridis, logarithmic for differences, grey for "nothing there"), the number in every cell, light or dark.
"""
