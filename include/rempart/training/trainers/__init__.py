"""Built-in trainers, their parameters, and their models as ONNX."""
