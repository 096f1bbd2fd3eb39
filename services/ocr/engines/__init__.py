"""OCR engines behind one interface: the PaddleOCR pipeline on ONNX Runtime or on PaddlePaddle."""

import os

# From 1.29 on ONNX Runtime keeps an id of the machine and tells Microsoft what it runs, unless this is set before it is
# loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
