"""The model card of a version: its facts, made from evidence, and the page that shows them."""
