"""The OCR engine without a server: reads decoded images one after the other and says how long that took.

Each line on stdin, a number of images and their side in pixels, is answered on stdout with the seconds.
"""

from __future__ import annotations

import sys
import time

from benchmarks.serving.payload import SIDES, decode, pictures
from services.ocr.engines.onnx import build_onnx


def main() -> None:
    """Answer until stdin ends."""
    engine = build_onnx(threads=1)
    sizes = {side: [decode(image) for _, image in pictures(side)] for side in SIDES}
    print("ready", flush=True)
    for line in sys.stdin:
        count, side = map(int, line.split())
        images, began = sizes[side], time.perf_counter()
        for index in range(count):
            engine.read([images[index % len(images)]])
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
