"""Textual enrichment (MOON2.0, section 5): entities, a writer behind one interface, and a guard.

`entities.learn_gazetteer(rows)`, then `enrich.enrich(row, gazetteer, writer)` for each training product.
"""
