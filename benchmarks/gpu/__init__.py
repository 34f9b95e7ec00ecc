"""What ``make gpu`` runs: checks, speed and a short training on one CUDA device."""
