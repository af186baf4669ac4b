"""The parts of the rendered example picture."""
