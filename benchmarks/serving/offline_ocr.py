"""The OCR engine without a server: reads decoded images one after the other and says how long that took.

Each line on stdin, a number of images, is answered on stdout with the seconds.
"""

from __future__ import annotations

import sys
import time

from benchmarks.serving.payload import decode, pictures
from services.ocr.engines.onnx import build_onnx


def main() -> None:
    """Answer until stdin ends."""
    engine = build_onnx(threads=1)
    images = [decode(image) for _, image in pictures()]
    engine.read(images[:8])
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for index in range(int(line)):
            engine.read([images[index % len(images)]])
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
