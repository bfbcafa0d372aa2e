"""From finished results to tables, figures and one offline page; reads files under `results/` only."""
