"""Data sets, their readers, simulation, undersampling and the LightningDataModule."""
