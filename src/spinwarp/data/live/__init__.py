"""Raw data that arrive over the network while a scanner measures."""
