"""OCR engines behind one interface: the PaddleOCR pipeline on ONNX Runtime or on PaddlePaddle."""
