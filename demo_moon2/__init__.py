"""A page that searches a catalogue by text, by picture, or by both: `python -m demo_moon2`."""
