"""Files under results/: how they are written, checked and removed."""
