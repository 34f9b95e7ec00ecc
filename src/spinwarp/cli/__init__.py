"""The commands train, evaluate and reconstruct."""
