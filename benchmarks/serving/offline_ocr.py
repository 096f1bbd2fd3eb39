"""The OCR engine without a server: reads images one after the other and says how long that took.

Each line on stdin, a number of images, their side in pixels, and "files" or "pixels", is answered on stdout with the
seconds: with those of decoding the files, or from decoded images.
"""

from __future__ import annotations

import sys
import time

from benchmarks.serving.payload import SIDES, decode, pictures
from varl.services.ocr.engines.onnx import build_onnx


def main() -> None:
    """Answer until stdin ends."""
    engine = build_onnx(threads=1)
    files = {side: [image for _, image in pictures(side)] for side in SIDES}
    pixels = {side: [decode(image) for image in images] for side, images in files.items()}
    print("ready", flush=True)
    for line in sys.stdin:
        count, side, kind = line.split()
        began = time.perf_counter()
        for index in range(int(count)):
            place = index % len(files[int(side)])
            engine.read([decode(files[int(side)][place]) if kind == "files" else pixels[int(side)][place]])
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
