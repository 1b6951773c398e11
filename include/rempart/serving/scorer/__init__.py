"""The scorer's server: protocols, keys of clients, batches of waiting requests, figures. It knows no platform."""
