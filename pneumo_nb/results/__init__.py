"""Trained runs -> tables, tests, maps, figures and controls: what a reader judges.

In: runs (`train.runs`) and the dataset that they were trained on. Out: DataFrames, matplotlib figures, widgets; nothing
is written here.

For others: `claims` and `comparisons` (columns against each other), `figures`, `interpret` (maps of a network),
`localisation` (maps against masks), `overlays` and `sliders` (pictures of them, and controls).
"""
