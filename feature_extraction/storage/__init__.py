"""Feature files: the HDF5 contract, files in the making, their journals."""
