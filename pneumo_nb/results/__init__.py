"""Trained runs -> tables, tests, maps, figures and controls: what a reader judges.

In: runs (`train.runs`) and the dataset that they were trained on. Out: DataFrames, figures, widgets; no files.

For others: `tables` (runs beside the paper and against each other, the claims, the reference), `comparisons` (intervals
and p-values), `figures`, `interpret` (maps of a network), `localisation` (maps against masks), `overlays` (pictures of
maps), `sliders` (controls over them, with a kernel and without).
"""
