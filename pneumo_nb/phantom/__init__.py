"""Synthetic chest radiographs that know their own disease, so that everything runs without a patient's data.

In: how many, how large, which mix of disease, a seed (`settings.PhantomSettings`). Out: a folder as a hospital would
hand it over, DICOM full of invented identifiers, `labels.csv` and masks, for `prepare` to read.

For others: `files.write` makes the folder, `radiograph.render` one radiograph. The way there: `anatomy` (a patient,
drawn with `bodies`) -> `beam` (what the detector sees) -> `disease` -> `radiograph` -> `files`.
"""
