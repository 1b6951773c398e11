"""The parts of the network for tables: its parameters, batches, training loop, and its ONNX graph."""
