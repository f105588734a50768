"""The bench under the notebooks: Hao et al. (2021), balanced convolutional networks for pneumoconiosis detection."""
