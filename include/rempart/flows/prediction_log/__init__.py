"""The prediction log beyond the journal: its keys, the shipment to the lake, retention, replay."""
