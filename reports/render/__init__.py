"""How a report is written: Markdown, CSV, LaTeX, the page and the leaderboard."""
