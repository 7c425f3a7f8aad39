"""Manual pages, units, links and completions: the modules make them and put them in place."""
