"""The parts of tools/bench: the measured subjects, fio as the measuring program, reports, profiles and experiments."""
