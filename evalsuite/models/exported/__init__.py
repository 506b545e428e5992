"""Exported programs: torch.export, TorchScript and ONNX files as networks."""
