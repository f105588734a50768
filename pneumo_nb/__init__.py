"""The bench under the notebooks: Hao et al. (2021), balanced convolutional networks for pneumoconiosis detection.

The road, a folder a stage; imports point down it only:
phantom   a synthetic patient -> a folder of DICOM files
prepare   a folder of radiographs -> a prepared dataset without identifiers
train     a prepared dataset -> runs, each with its record
results   runs -> tables, tests, maps, figures
beyond    what notebooks 08 to 11 need, one new radiograph, checklists
Beside it: paper, settings, paths, metrics, processes. On top: reproduce and pages, which run the notebooks and print
them.
"""
