"""Visual expansion of training products in two stages: a clean subject, then views of it (MOON2.0, section 5)."""
