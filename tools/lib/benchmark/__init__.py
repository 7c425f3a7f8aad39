"""The parts of tools/bench: subjects (what is measured), fio (by what), report, profile, scale."""
