"""A page that searches a catalogue by text, by image, or by both: `python -m demo_moon2`."""
