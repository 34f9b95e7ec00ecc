"""Networks, one paper per file. A network takes an acquisition and returns a complex image."""
