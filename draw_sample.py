"""Draws the sample data set: stand-ins for the museum's pictures, so that the tutorial runs offline.

Not a step of the tutorial: `sample-dataset.tar.gz` is in the repository, and download.py fetches the
real pictures. Five cultures, each in a manner of its own: patchwork quilts (American), ink landscapes (China),
pointillist gardens (French), gold-ground saints (Italian, Florence) and woodblock seas (Japan). Palettes,
formats, exposure and file sizes are drawn from the same distributions for all five: only the manner tells.

Reads   nothing
Writes  sample-dataset.tar.gz: met_art/<label folder>/<id>.jpg (and <id>_1.jpg, a second photograph), SAMPLE.txt

    python draw_sample.py

Safe to run again: the same bytes, as long as Pillow is the release that requirements.txt pins.
"""

import gzip
import io
import math
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from files import open_replacing
from flags import Parser, run
from labels import folder_name, label_of_folder
from progress import Progress

OBJECTS_PER_LABEL = 52
SECOND_PHOTOGRAPH_EVERY = 7  # Objects; 60 pictures a label.
FIRST_ID = 9_000_001  # Above the museum's own object ids, so that real pictures can join the sample.
LONGEST_SIDES = (320, 480)  # Pixels.
FILE_BYTES = (12_000, 20_000)
OVERSAMPLING = 2  # Pillow draws hard edges; they are smooth after the reduction.
SHEET_COLUMNS, SHEET_CELL = 8, 120  # Pixels.
NOTE = """These pictures are drawn by a program, draw_sample.py. They are stand-ins, not works of the museum:
five manners of drawing under the names of five cultures, so that the tutorial runs without a network.
download.py fetches the museum's own photographs into folders of the same form.
"""

# From light to dark; the first is the ground, the last the ink, those between change places.
PALETTES = [
    [tuple(bytes.fromhex(colour)) for colour in line.split()]
    for line in (
        "f3e7cb dfb968 c2703d a23b2c 4e6a74 2a201b",
        "efe2bd d9b04c b5852b 8c3a2b 2f5570 1e1a1c",
        "eef0e6 b9d0d4 7da5b5 cf6a4a 2d5f8a 15243c",
        "f5ead8 e8b7a0 d0737a 7f9a7c 5c4a72 2b2033",
        "eee6c9 c9c98a 8aa55b d19a3c 3f6f5c 1d2c27",
        "f1ddc0 e09a5b c4502f 7b2b2f 3c4d5e 231a20",
        "e9e4da c3b8a5 9a8b78 a8513a 5d6468 272626",
        "f0e8d2 a9cbb7 58a3a0 e0a83e b8503c 1c3440",
        "f4dfd0 d8a9b4 a9719a d6b04e 54628f 241f3d",
        "ece3c6 d6c06a 6f9f9a b9652f 7a3550 1f2430",
    )
]
Colour = tuple[int, ...]  # RGB or RGBA, 0 to 255.
Point = tuple[float, float]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Returns a colour between two, `share` of the way to the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first[:3], second[:3], strict=True))


class Canvas:
    """A picture being painted: `unit` is a hundredth of the short side, colours with alpha blend."""

    def __init__(self, rng: random.Random, width: int, height: int):
        self.rng, self.width, self.height, self.unit = rng, width, height, min(width, height) / 100
        ground, *hues, ink = rng.choice(PALETTES)
        rng.shuffle(hues)
        if rng.random() < 0.25:  # A night: light on dark.
            ground, ink = ink, ground
        self.ground, self.hues, self.ink = mix(ground, rng.choice(hues), rng.uniform(0, 0.45)), hues, ink
        self.set_image(Image.new("RGB", (width, height), self.ground))

    def set_image(self, image: Image.Image) -> None:
        self.image = image
        self.draw = ImageDraw.Draw(image, "RGBA")

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def mask(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        image = Image.new("L", self.image.size)
        return image, ImageDraw.Draw(image)

    def gradient(self, box: tuple[float, float, float, float], top: Colour, bottom: Colour) -> None:
        """Fills a box with a vertical change from one colour to another."""
        left, upper, right, lower = map(round, box)
        size = (max(1, right - left), max(1, lower - upper))
        ramp = Image.linear_gradient("L").resize(size)
        self.image.paste(Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp), (left, upper))

    def noise(self, across: int, down: int, strength: float) -> None:
        """Lightens and darkens in soft patches, `across` by `down` of them: cloth, silk, wood, plaster."""
        grain = Image.frombytes("L", (across, down), self.rng.randbytes(across * down))
        grain = grain.resize(self.image.size, Image.Resampling.BICUBIC).point(lambda v: round(128 + (v - 128) * strength))
        self.set_image(ImageChops.overlay(self.image, Image.merge("RGB", [grain] * 3)))

    def stroke(self, start: Point, end: Point, width: float, colour: Colour) -> None:
        """Draws a brush stroke, thick in its first half and thin at both ends."""
        (x0, y0), (x1, y1) = start, end
        length = math.hypot(x1 - x0, y1 - y0) or 1
        dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
        belly = (x0 + (x1 - x0) * 0.35, y0 + (y1 - y0) * 0.35)
        self.draw.polygon([start, (belly[0] + dx, belly[1] + dy), end, (belly[0] - dx, belly[1] - dy)], fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour | None, edge: Colour | None = None, width: float = 1) -> None:
        box = (x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse(box, fill=colour, outline=edge, width=max(1, round(width)))

    def characters(self, x: float, y: float, rows: int, size: float, colour: Colour) -> None:
        """Writes a column of signs that look written and say nothing."""
        for row in range(rows):
            for _ in range(self.rng.randint(4, 7)):
                a, b = self.rng.uniform(0, size * 0.7), self.rng.uniform(0, size * 0.7)
                across = self.chance(0.5)
                start = (x + (0 if across else a), y + row * size + (b if across else 0))
                end = (start[0] + (size * 0.75 if across else -size * 0.08), start[1] + (-size * 0.1 if across else size * 0.7))
                self.stroke(start, end, size * 0.16, colour)


# American. A quilt block is a quarter on the unit square, its polygons as (fabric, corner …), turned four times
# about (1, 1). Fabric 0 is the ground of the block.
BLOCKS: dict[str, list[tuple[int, list[Point]]]] = {
    "pinwheel": [(1, [(0, 0), (1, 0), (1, 1)]), (2, [(0, 0), (0.5, 0.5), (0, 1)])],
    "sawtooth star": [
        (1, [(0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1)]),
        (2, [(0.5, 0), (0.5, 0.5), (1, 0.5)]),
        (2, [(0, 0.5), (0.5, 0.5), (0.5, 1)]),
    ],
    "diamonds": [(1, [(0, 1), (1, 0), (1, 1)]), (2, [(0.5, 1), (1, 0.5), (1, 1)]), (3, [(0, 0), (0.5, 0), (0, 0.5)])],
    "flying geese": [(1, [(0, 0.5), (0.5, 0), (1, 0.5)]), (2, [(0, 1), (0.5, 0.5), (1, 1)])],
    "nine patch": [
        (1, [(0, 0), (0.667, 0), (0.667, 0.667), (0, 0.667)]),
        (2, [(0.667, 0.667), (1, 0.667), (1, 1), (0.667, 1)]),
    ],
    "log cabin": [
        (1 + i % 3, [(i / 5, i / 5), (2 - i / 5, i / 5), (1.8 - i / 5, 0.2 + i / 5), (0.2 + i / 5, 0.2 + i / 5)])
        for i in range(5)
    ],
}


def _print_cloth(canvas: Canvas, colour: Colour) -> Image.Image:
    """Returns a canvas full of one printed cotton: plain, dotted, striped or checked."""
    cloth = Image.new("RGB", canvas.image.size, colour)
    draw = ImageDraw.Draw(cloth, "RGBA")
    step = canvas.unit * canvas.rng.uniform(2, 3.4)
    figure = (*mix(colour, canvas.rng.choice([canvas.ground, canvas.ink]), 0.8), canvas.rng.randint(90, 190))
    kind = canvas.rng.choice(["plain", "dots", "stripes", "checks"])
    columns, rows = int(canvas.width / step) + 1, int(canvas.height / step) + 1
    for i in range(columns if kind in ("stripes", "checks") else 0):
        draw.rectangle((i * step, 0, i * step + step * 0.4, canvas.height), fill=figure)
    for j in range(rows if kind == "checks" else 0):
        draw.rectangle((0, j * step, canvas.width, j * step + step * 0.4), fill=figure)
    for i in range(columns if kind == "dots" else 0):
        for j in range(rows):
            x, y = (i + j % 2 / 2) * step, j * step
            draw.ellipse((x, y, x + step * 0.35, y + step * 0.35), fill=figure)
    return cloth


def draw_quilt(canvas: Canvas) -> None:
    rng, unit = canvas.rng, canvas.unit
    side = min(canvas.width, canvas.height) / rng.uniform(2.6, 5.2)
    border = side * rng.uniform(0.2, 0.45)
    columns, rows = (max(1, round((length - 2 * border) / side)) for length in canvas.image.size)
    width, height = (canvas.width - 2 * border) / columns, (canvas.height - 2 * border) / rows
    names = rng.sample(sorted(BLOCKS), 2)
    fabrics = [canvas.ground, *canvas.hues, canvas.ink]
    orders = [rng.sample(range(len(fabrics)), len(fabrics)) for _ in names]
    masks = [canvas.mask() for _ in fabrics]
    seams = []

    def patch(fabric: int, corners: list[Point]) -> None:
        masks[fabric][1].polygon(corners, fill=255)
        for other in range(len(masks)):
            if other != fabric:
                masks[other][1].polygon(corners, fill=0)
        seams.append(corners)

    patch(orders[0][4], [(0, 0), (canvas.width, 0), (canvas.width, canvas.height), (0, canvas.height)])
    for row in range(rows):
        for column in range(columns):
            kind = (row + column) % 2
            x, y, order = border + column * width, border + row * height, orders[kind]
            patch(order[0], [(x, y), (x + width, y), (x + width, y + height), (x, y + height)])
            for turn in range(4):
                for fabric, corners in BLOCKS[names[kind]]:
                    for _ in range(turn):
                        corners = [(2 - b, a) for a, b in corners]
                    patch(order[fabric], [(x + a * width / 2, y + b * height / 2) for a, b in corners])
    for colour, (mask, _) in zip(fabrics, masks, strict=True):
        canvas.image.paste(_print_cloth(canvas, colour), mask=mask)
    for corners in seams:  # The seam's shadow, and the quilter's stitches beside it.
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            canvas.draw.line((x0, y0, x1, y1), fill=(0, 0, 0, 110), width=max(1, round(unit * 0.35)))
            stitches = int(math.hypot(x1 - x0, y1 - y0) / (unit * 2.4))
            for i in range(stitches):
                a, b = (i + 0.25) / stitches, (i + 0.7) / stitches
                line = [(x0 + (x1 - x0) * t + unit, y0 + (y1 - y0) * t + unit) for t in (a, b)]
                canvas.draw.line(line, fill=(255, 250, 240, 130), width=max(1, round(unit * 0.3)))
    canvas.noise(columns * 5, rows * 5, 0.35)


# China.
def _ridge(canvas: Canvas, level: float, height: float) -> list[Point]:
    """Returns the outline of steep peaks, left to right, `level` and `height` as shares of the canvas."""
    rng = canvas.rng
    peaks = [
        (rng.uniform(-0.1, 1.1), rng.uniform(0.3, 1), rng.uniform(0.05, 0.22), rng.uniform(0.8, 2.2))
        for _ in range(rng.randint(3, 6))
    ]
    points, wobble = [], 0.0
    for i in range(161):
        wobble = wobble * 0.86 + rng.uniform(-0.012, 0.012)
        rise = max(tall * max(0, 1 - (abs(i / 160 - at) / wide) ** power) for at, tall, wide, power in peaks)
        points.append((i / 160 * canvas.width, canvas.height * (level - height * rise + wobble)))
    return points


def _mountains(canvas: Canvas) -> None:
    rng, unit, layers = canvas.rng, canvas.unit, canvas.rng.randint(3, 5)
    for layer in range(layers):
        near = (layer + 1) / layers
        ridge = _ridge(canvas, 0.3 + 0.68 * near, rng.uniform(0.2, 0.42))
        wash = mix(mix(canvas.hues[0], canvas.ground, 0.7 - 0.6 * near), canvas.ink, 0.15 + 0.55 * near)
        body, draw = canvas.mask()
        draw.polygon([*ridge, (canvas.width, canvas.height), (0, canvas.height)], fill=255)
        depth = canvas.height * rng.uniform(0.1, 0.2)
        inside = ImageChops.offset(body, 0, round(depth * 0.7))
        inside.paste(0, (0, 0, canvas.width, round(depth * 0.7)))
        inside = inside.filter(ImageFilter.BoxBlur(depth / 2)).filter(ImageFilter.BoxBlur(depth / 2))
        canvas.image.paste(canvas.ground, mask=ImageChops.multiply(body, ImageChops.invert(inside)))
        canvas.image.paste(wash, mask=ImageChops.subtract(body, inside).point(lambda v: round(v * 0.85)))
        for _ in range(round(260 * near)):  # Texture strokes run down the slope, and dots of moss sit on its edge.
            i = rng.randrange(1, 160)
            x, y = ridge[i]
            slope = (ridge[i + 1][1] - ridge[i - 1][1]) / (ridge[i + 1][0] - ridge[i - 1][0])
            y += rng.uniform(0, 1) ** 1.6 * depth * 1.1
            length = unit * rng.uniform(2, 7) * (0.5 + near / 2)
            end = (x + max(-0.7, min(0.7, slope * 0.4)) * length, y + length)
            canvas.stroke((x, y), end, unit * rng.uniform(0.4, 1.2), (*mix(wash, canvas.ink, 0.6), rng.randint(50, 150)))
        for x, y in rng.sample(ridge, 50):
            size = unit * rng.uniform(0.4, 1.2) * near
            canvas.draw.ellipse((x - size * 1.6, y - size, x + size * 1.6, y + size), fill=(*canvas.ink, round(170 * near)))
    for _ in range(rng.randint(2, 4)):
        _pine(canvas, rng.uniform(0.05, 0.95) * canvas.width, canvas.height * rng.uniform(0.9, 1.02), unit * rng.uniform(18, 34))


def _pine(canvas: Canvas, x: float, y: float, height: float) -> None:
    rng, unit = canvas.rng, canvas.unit
    for i in range(9):
        x2, y2 = x + rng.uniform(-0.06, 0.08) * height, y - height / 9
        canvas.draw.line((x, y, x2, y2), fill=(*canvas.ink, 230), width=max(1, round(height * (0.06 - i * 0.004))))
        x, y = x2, y2
        for _ in range(3 if i > 2 else 0):
            cx, cy = x + rng.uniform(-0.3, 0.3) * height * (1.2 - i / 12), y + rng.uniform(-0.04, 0.04) * height
            canvas.stroke((x, y), (cx, cy), unit * 0.6, (*canvas.ink, 200))
            for angle in range(190, 351, 16):  # A fan of needles.
                a, long = math.radians(angle), height * rng.uniform(0.06, 0.11)
                canvas.stroke((cx, cy), (cx + long * math.cos(a), cy + long * math.sin(a)), unit * 0.5, (*canvas.ink, 190))


def _bamboo(canvas: Canvas) -> None:
    rng, unit = canvas.rng, canvas.unit
    for stalk in range(rng.randint(4, 7)):
        tone = mix(mix(canvas.ink, canvas.hues[0], 0.25), canvas.ground, rng.uniform(0, 0.65) * (stalk < 4))
        x, y, thick = rng.uniform(0, canvas.width), canvas.height * 1.05, unit * rng.uniform(1.5, 4)
        lean = rng.uniform(-0.15, 0.15)
        while y > -20 * unit:
            long = unit * rng.uniform(15, 22)
            top = (x + lean * long, y - long + unit)
            canvas.draw.line((x, y, *top), fill=(*tone, 190), width=round(thick))
            canvas.stroke((top[0] - thick, top[1]), (top[0] + thick, top[1]), unit, (*tone, 255))
            x, y = top[0], top[1] - unit
            for _ in range(rng.choice([0, 1, 2, 2])):
                cx, cy = x + rng.uniform(-14, 14) * unit, y + rng.uniform(-6, 8) * unit
                canvas.stroke((x, y), (cx, cy), unit * 0.5, (*tone, 210))
                for _ in range(rng.randint(4, 7)):
                    a, leaf = math.radians(rng.uniform(15, 165)), unit * rng.uniform(9, 17)
                    canvas.stroke((cx, cy), (cx + leaf * math.cos(a), cy + leaf * math.sin(a)), unit * 2.4, (*tone, 225))


def draw_ink(canvas: Canvas) -> None:
    rng, unit = canvas.rng, canvas.unit
    canvas.gradient((0, 0, canvas.width, canvas.height), canvas.ground, mix(canvas.ground, canvas.hues[1], rng.uniform(0, 0.35)))
    if canvas.chance(0.4):
        canvas.disc(rng.uniform(0.2, 0.8) * canvas.width, 0.2 * canvas.height, unit * 9, (*mix(canvas.ground, canvas.hues[2], 0.6), 150))
    _bamboo(canvas) if canvas.chance(0.3) else _mountains(canvas)
    size, x = unit * rng.uniform(4.5, 6.5), rng.choice([0.04, 0.7]) * canvas.width
    for column in range(rng.randint(2, 4)):
        canvas.characters(x + column * size * 1.2, unit * 5, rng.randint(4, 7), size, (*canvas.ink, 230))
    seal = (x, unit * 7 + 7 * size, x + size * 1.3, unit * 7 + 8.3 * size)
    canvas.draw.rectangle(seal, fill=canvas.hues[3])
    canvas.characters(seal[0] + size * 0.2, seal[1] + size * 0.1, 1, size, canvas.ground)
    canvas.noise(canvas.width // 2, canvas.height // 24, 0.22)  # Silk: threads run down the scroll.
    canvas.noise(canvas.width // 24, canvas.height // 2, 0.12)


# French.
def _garden(canvas: Canvas) -> None:
    rng, width, height = canvas.rng, canvas.width, canvas.height
    draw, hues = canvas.draw, canvas.hues
    horizon = height * rng.uniform(0.3, 0.55)
    canvas.gradient((0, 0, width, horizon), mix(hues[0], canvas.ground, 0.3), mix(canvas.ground, hues[1], 0.25))
    canvas.gradient((0, horizon, width, height), mix(hues[2], canvas.ground, 0.35), mix(hues[2], canvas.ink, 0.3))
    for _ in range(rng.randint(2, 4)):  # Hills, then the pond or path.
        x, wide, high = rng.uniform(0, width), rng.uniform(0.2, 0.5) * width, rng.uniform(0.05, 0.16) * height
        draw.ellipse((x - wide, horizon - high, x + wide, horizon + high), fill=mix(hues[2], hues[0], rng.uniform(0.2, 0.7)))
    x, wide = rng.uniform(0.2, 0.8) * width, rng.uniform(0.25, 0.5) * width
    if canvas.chance(0.5):
        draw.ellipse((x - wide, horizon + 0.08 * height, x + wide, horizon + 0.33 * height), fill=mix(hues[0], canvas.ground, 0.5))
    else:
        draw.polygon([(x, horizon), (x + wide * 0.1, horizon), (x + wide, height), (x - wide, height)], fill=mix(canvas.ground, hues[1], 0.3))
    for _ in range(rng.randint(3, 8)):  # Poplars and round trees with their shadows.
        x, foot, high = rng.uniform(0, width), horizon + rng.uniform(0, 0.2) * height, rng.uniform(0.2, 0.5) * height
        wide = high * rng.choice([0.12, 0.35])
        draw.ellipse((x - wide, foot - 0.04 * height, x + wide * 3, foot + 0.02 * height), fill=mix(hues[2], canvas.ink, 0.6))
        draw.rectangle((x - wide * 0.1, foot - high / 2, x + wide * 0.1, foot), fill=mix(canvas.ink, hues[3], 0.3))
        draw.ellipse((x - wide, foot - high, x + wide, foot - high * 0.15), fill=mix(hues[3], hues[2], rng.uniform(0.1, 0.9)))
        draw.ellipse((x - wide * 0.8, foot - high * 0.95, x + wide * 0.2, foot - high * 0.4), fill=mix(hues[3], canvas.ground, 0.45))
    for _ in range(rng.randint(0, 4)):  # Strollers under parasols.
        x, foot, high = rng.uniform(0.1, 0.9) * width, rng.uniform(0.75, 0.97) * height, rng.uniform(0.16, 0.3) * height
        draw.polygon([(x, foot - high * 0.75), (x - high * 0.24, foot), (x + high * 0.24, foot)], fill=mix(rng.choice(hues), canvas.ink, 0.3))
        draw.ellipse((x - high * 0.07, foot - high * 0.86, x + high * 0.07, foot - high * 0.7), fill=mix(canvas.ground, hues[1], 0.4))
        draw.pieslice((x - high * 0.32, foot - high * 1.15, x + high * 0.32, foot - high * 0.6), 180, 360, fill=rng.choice(hues))
    for _ in range(rng.randint(150, 500)):  # Flower beds, smaller towards the horizon.
        depth = rng.uniform(0.15, 1) ** 1.3
        x, y, size = rng.uniform(0, width), horizon + depth * (height - horizon), canvas.unit * (0.5 + 2.2 * depth)
        canvas.disc(x, y, size, rng.choice([hues[1], hues[3], canvas.ground]))


def draw_points(canvas: Canvas) -> None:
    rng = canvas.rng
    _garden(canvas)
    scene = canvas.image.filter(ImageFilter.BoxBlur(canvas.unit * 0.8))
    pixels = scene.load()
    canvas.set_image(Image.new("RGB", scene.size, mix(canvas.ground, canvas.hues[1], 0.3)))
    size = canvas.unit * rng.uniform(0.9, 1.5)
    for _ in range(round(canvas.width * canvas.height / size**2 * 0.75)):
        x, y = rng.uniform(0, canvas.width - 1), rng.uniform(0, canvas.height - 1)
        colour = mix(pixels[int(x), int(y)], rng.choice([canvas.ground, canvas.ink, *canvas.hues]), rng.choice([0, 0.1, 0.2, 0.55]))
        canvas.disc(x, y, size * rng.uniform(0.6, 1.1), colour)


# Italian, Florence.
def _saint(canvas: Canvas, x: float, top: float, bottom: float, width: float, gold: Colour) -> None:
    rng, draw = canvas.rng, canvas.draw
    r = min(width * 0.15, (bottom - top) * 0.11)  # Of the head.
    y, dark = top + r * rng.uniform(2.6, 3.4), mix(gold, canvas.ink, 0.7)
    mantle, robe = rng.sample([hue for hue in canvas.hues if hue != gold], 2)
    skin, tilt = mix((226, 182, 140), canvas.ground, 0.2), rng.choice([-0.25, 0.25]) * r
    canvas.disc(x, y, r * 2.1, mix(gold, (255, 244, 200), 0.4), dark, r * 0.1)
    for ring, count in ((1.9, 30), (1.55, 24), (1.3, 0)):
        canvas.disc(x, y, r * ring, None, dark, r * 0.06)
        for i in range(count):
            a = 2 * math.pi * i / count
            canvas.disc(x + r * (ring - 0.17) * math.cos(a), y + r * (ring - 0.17) * math.sin(a), r * 0.07, dark)
    length = bottom - y

    def edge(share: float, side: float) -> Point:
        return x + side * r * (0.75 + min(width / r * 0.36, 3.4) * share**0.55), y + r * 0.3 + share * length

    shares = [i / 24 for i in range(25)]
    draw.polygon([edge(s, -1) for s in shares] + [edge(s, 1) for s in reversed(shares)], fill=mantle)
    draw.ellipse((x - r * 1.15, y - r * 1.35, x + r * 1.15, y + r * 1.2), fill=mantle)
    draw.polygon([(x, y + r * 0.6), *(edge(s, -0.45) for s in shares[3:]), *(edge(s, 0.2) for s in reversed(shares[3:]))], fill=robe)
    for fold in range(-8, 9):  # Folds fall from the shoulders, loops hang between the arms.
        tone = mix(mantle if abs(fold) > 3 else robe, canvas.ink if fold % 2 else (255, 255, 255), 0.45)
        line = [edge(s, fold / 8.5 + 0.03 * math.sin(s * 9 + fold)) for s in shares[4 + abs(fold) // 3 :]]
        draw.line(line, fill=(*tone, 170), width=max(1, round(r * 0.1)), joint="curve")
    for loop in range(5):
        wide, level = r * (1.1 + 0.25 * loop), y + r * (2.2 + loop * 0.55)
        draw.arc((x - wide, level - r, x + wide, level + r), 20, 160, fill=(*mix(mantle, canvas.ink, 0.5), 200), width=max(1, round(r * 0.1)))
    for side in (-1, 1):
        draw.line([edge(s, side) for s in shares], fill=gold, width=max(2, round(r * 0.14)))
    x += tilt
    draw.ellipse((x - r * 0.75, y - r, x + r * 0.75, y + r), fill=skin, outline=mix(skin, canvas.ink, 0.5))
    shade = (*mix(skin, (110, 60, 40), 0.8), 255)
    for side in (-0.35, 0.3):
        draw.arc((x + side * r - r * 0.2, y - r * 0.3, x + side * r + r * 0.2, y), 20, 160, fill=shade, width=max(1, round(r * 0.1)))
        draw.arc((x + side * r - r * 0.25, y - r * 0.5, x + side * r + r * 0.25, y), 200, 340, fill=shade, width=max(1, round(r * 0.06)))
    draw.line((x - r * 0.02, y - r * 0.25, x - r * 0.12, y + r * 0.25, x + r * 0.06, y + r * 0.25), fill=shade, width=max(1, round(r * 0.07)))
    draw.line((x - r * 0.17, y + r * 0.52, x + r * 0.17, y + r * 0.52), fill=(160, 60, 50), width=max(1, round(r * 0.09)))
    x -= tilt
    for side in (-1, 1):
        canvas.stroke((x + side * r * 1.2, y + r * 2.6), (x, y + r * 1.9), r * 0.6, skin)


def draw_gold(canvas: Canvas) -> None:
    rng, draw, unit = canvas.rng, canvas.draw, canvas.unit
    width, height = canvas.width, canvas.height
    gold, spandrel = rng.sample(canvas.hues, 2)
    gold = mix(gold, (222, 176, 72), rng.uniform(0, 0.5))
    draw.rectangle((0, 0, width, height), fill=mix(spandrel, canvas.ink, 0.25))
    step = unit * rng.uniform(3.5, 5.5)
    for i in range(int(width / step) + 2):
        for j in range(int(height / step) + 2):
            canvas.disc(i * step, (j + i % 2 / 2) * step, step * 0.16, mix(spandrel, gold, 0.6))
    niches = max(1, round(width / height * rng.uniform(1.3, 2.1)))
    margin, pitch = unit * 4, (width - unit * 8) / niches
    for niche in range(niches):
        left, right = margin + niche * pitch + unit, margin + (niche + 1) * pitch - unit
        wide, bottom, top = right - left, height - unit * 4, unit * rng.uniform(5, 7)
        high = min(wide * 0.9, height * 0.35)  # Of the pointed arch.
        curve = [(t, math.sin(math.acos(1 - t)) ** 0.9) for t in (i / 20 for i in range(21))]
        arch = [(left + wide / 2 * t, top + high * (1 - c)) for t, c in curve]
        arch += [(left + right - x, y) for x, y in reversed(arch)]
        outline = [(left, bottom), *arch, (right, bottom)]
        draw.polygon(outline, fill=gold)
        field, mask_draw = canvas.mask()
        mask_draw.polygon(outline, fill=90)
        tooling = Image.new("RGB", canvas.image.size, gold)
        tool, dark = ImageDraw.Draw(tooling), mix(gold, canvas.ink, 0.7)
        for i in range(-int(height / step), int(width / step) + 1):
            tool.line((i * step, 0, i * step + height, height), fill=dark, width=max(1, round(unit * 0.4)))
            tool.line((i * step + height, 0, i * step, height), fill=dark, width=max(1, round(unit * 0.4)))
        canvas.image.paste(tooling, mask=field)
        _saint(canvas, (left + right) / 2, top + high * 0.25, bottom, wide, gold)
        for inset, wide_line, colour in ((0, 2.2, mix(gold, canvas.ink, 0.6)), (0, 1.2, mix(gold, (255, 250, 220), 0.4))):
            draw.line([*outline, outline[0]], fill=colour, width=round(unit * wide_line), joint="curve")
        for x, y in arch[::2]:
            canvas.disc(x, y, unit * 1.1, mix(gold, (255, 250, 220), 0.5), dark, unit * 0.3)
    for _ in range(70):  # Craquelure.
        x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 7)
        for _ in range(rng.randint(3, 12)):
            angle += rng.uniform(-0.7, 0.7)
            x2, y2 = x + 4 * unit * math.cos(angle), y + 4 * unit * math.sin(angle)
            draw.line((x, y, x2, y2), fill=(*canvas.ink, 90), width=1)
            x, y = x2, y2
    canvas.noise(width // 40, height // 40, 0.25)


# Japan.
def _scallops(canvas: Canvas, top: float, colours: Sequence[Colour]) -> None:
    """Covers the canvas below `top` with rows of scales, the pattern of a calm sea."""
    radius, y, row = canvas.unit * canvas.rng.uniform(4, 6), top, 0
    while y < canvas.height + radius:
        x = -radius * (row % 2)
        while x < canvas.width + radius:
            for i, share in enumerate((1, 0.72, 0.44)):
                canvas.disc(x, y + radius, radius * share, colours[i % 2], canvas.ink, canvas.unit * 0.45)
            x += radius * 2
        y, radius, row = y + radius * 0.5, radius * 1.045, row + 1


def _great_wave(canvas: Canvas, x: float, y: float, size: float, side: int, colours: Sequence[Colour]) -> None:
    """Draws a breaking wave: stripes between its back and its hollow, which meet in claws of foam."""
    back, hollow = ((-2.6, 3), (-1.1, 1.2), (-0.7, -1.5), (1.1, -0.35)), ((2.4, 3), (-0.4, 2.3), (-0.6, -0.6), (1.1, -0.35))

    def point(share: float, t: float) -> Point:
        bezier = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)
        (a, b), (c, d) = ([sum(w * p[i] for w, p in zip(bezier, curve, strict=True)) for i in (0, 1)] for curve in (back, hollow))
        return x + side * size * (a + (c - a) * share), y + size * (b + (d - b) * share)

    steps, edge = [i / 24 for i in range(25)], max(1, round(canvas.unit * 0.5))
    for stripe in range(9):
        outline = [point(stripe / 9, t) for t in steps] + [point((stripe + 1) / 9, t) for t in reversed(steps)]
        canvas.draw.polygon(outline, fill=colours[1 - stripe % 2])
        canvas.draw.line([*outline, outline[0]], fill=canvas.ink, width=edge, joint="curve")
    for share in (0.33, 0.16, 0):
        for i in range(13):
            t = 1 - i * 0.045
            cx, cy = point(share, t)
            canvas.disc(cx, cy, size * (0.13 - 0.006 * i), colours[2], canvas.ink, edge)
    for _ in range(25):
        cx, cy = point(-0.2, canvas.rng.uniform(0.55, 1))
        canvas.disc(cx + canvas.rng.uniform(-0.2, 0.5) * side * size, cy + canvas.rng.uniform(-0.3, 0.5) * size, size * 0.02, colours[2])


def _fuji(canvas: Canvas, sea: float) -> None:
    rng, width = canvas.rng, canvas.width
    x, wide, high = rng.uniform(0.25, 0.75) * width, rng.uniform(0.35, 0.6) * width, sea * rng.uniform(0.45, 0.75)
    slope = [(t, (1 - t) ** 1.7) for t in (i / 20 for i in range(2, 21))]
    left = [(x - wide * t, sea - high * rise) for t, rise in reversed(slope)]
    right = [(x + wide * t, sea - high * rise) for t, rise in slope]
    canvas.draw.polygon(left + right, fill=canvas.hues[2])
    snow = [point for point in left + right if point[1] < sea - high * 0.45]
    for i in range(9):  # The snow line is a zigzag, right to left.
        snow.append((snow[-1][0] - wide * 0.06, sea - high * (0.32 if i % 2 else 0.55)))
    canvas.draw.polygon([point for point in snow if abs(point[0] - x) < wide * 0.4], fill=mix(canvas.ground, (255, 255, 255), 0.3))
    canvas.draw.line(left + right, fill=canvas.ink, width=max(1, round(canvas.unit * 0.6)), joint="curve")


def _blossoms(canvas: Canvas) -> None:
    rng, unit = canvas.rng, canvas.unit
    x, y, angle = rng.choice([0, canvas.width]), rng.uniform(0.05, 0.5) * canvas.height, 0.0
    side = 1 if x == 0 else -1
    petal = mix(canvas.hues[3], (255, 250, 245), 0.45)
    for i in range(16):
        angle = angle * 0.7 + rng.uniform(-0.7, 0.7)
        x2, y2 = x + side * unit * 6 * math.cos(angle), y + unit * 6 * math.sin(angle)
        canvas.draw.line((x, y, x2, y2), fill=canvas.ink, width=round(unit * (3.2 - i * 0.15)))
        x, y = x2, y2
        for _ in range(rng.randint(1, 3)):
            cx, cy, r = x + rng.uniform(-9, 9) * unit, y + rng.uniform(-9, 9) * unit, unit * rng.uniform(1.2, 1.9)
            canvas.draw.line((x, y, cx, cy), fill=canvas.ink, width=round(unit * 0.8))
            for leaf in range(5):
                a = leaf * 2 * math.pi / 5 + angle
                canvas.disc(cx + r * math.cos(a), cy + r * math.sin(a), r * 0.85, petal, canvas.ink, unit * 0.35)
            canvas.disc(cx, cy, r * 0.4, canvas.hues[1])


def draw_print(canvas: Canvas) -> None:
    rng, unit, width, height = canvas.rng, canvas.unit, canvas.width, canvas.height
    foam, edge = mix(canvas.ground, (255, 255, 255), 0.4), max(1, round(unit * 0.5))
    sea = height * rng.uniform(0.4, 0.65)
    canvas.gradient((0, 0, width, sea * 0.45), canvas.hues[0], canvas.ground)
    canvas.gradient((0, sea * 0.6, width, sea), canvas.ground, mix(canvas.hues[1], canvas.ground, 0.4))
    if canvas.chance(0.5):
        canvas.disc(rng.uniform(0.15, 0.85) * width, sea * rng.uniform(0.25, 0.6), unit * rng.uniform(7, 13), canvas.hues[3], canvas.ink, edge)
    if canvas.chance(0.65):
        _fuji(canvas, sea)
    for _ in range(rng.randint(1, 5)):  # Bands of cloud.
        x, y, wide = rng.uniform(-0.2, 0.9) * width, rng.uniform(0.08, 0.95) * sea, rng.uniform(0.2, 0.6) * width
        for band in range(2):
            box = (x + band * 8 * unit, y + band * 3.4 * unit, x + wide + band * 14 * unit, y + (band + 1) * 3.4 * unit)
            canvas.draw.rounded_rectangle(box, unit * 1.7, fill=foam, outline=canvas.ink, width=edge)
    _scallops(canvas, sea, (canvas.hues[2], foam))
    for _ in range(rng.choice([0, 1, 1, 2])):
        size, side = unit * rng.uniform(18, 34), rng.choice([-1, 1])
        _great_wave(canvas, rng.uniform(0.2, 0.8) * width, sea + rng.uniform(-0.05, 0.2) * height, size, side, (canvas.hues[2], foam, foam))
    if canvas.chance(0.4):
        _blossoms(canvas)
    if canvas.chance(0.2):  # Rain.
        for _ in range(160):
            x, y = rng.uniform(0, 1.2) * width, rng.uniform(-0.2, 1) * height
            canvas.draw.line((x, y, x - unit * 8, y + unit * 26), fill=(*canvas.ink, 130), width=1)
    size, x = unit * 4.5, rng.choice([0.05 * width, 0.95 * width - unit * 7])
    canvas.draw.rectangle((x, unit * 5, x + unit * 7, unit * 30), fill=canvas.hues[1], outline=canvas.ink, width=edge)
    canvas.characters(x + unit * 1.5, unit * 6, 5, size, canvas.ink)
    canvas.noise(6, height // 5, 0.16)  # The grain of the block.


MANNERS: dict[str, Callable[[Canvas], None]] = {
    "American": draw_quilt,
    "China": draw_ink,
    "French": draw_points,
    "Italian, Florence": draw_gold,
    "Japan": draw_print,
}


def photograph(work: Image.Image, rng: random.Random) -> bytes:
    """Takes a photograph of a work: mount, crop, light, exposure and grain differ, and the manner shows in none."""
    if rng.random() < 0.25:
        wall = (rng.randint(40, 225),) * 3
        work = ImageOps.expand(work, round(min(work.size) * rng.uniform(0.02, 0.07)), wall)
    left, upper, right, lower = (rng.uniform(0, 0.06) for _ in range(4))
    width, height = work.size
    box = (left * width, upper * height, (1 - right) * width, (1 - lower) * height)
    size = tuple(round((b - a) / OVERSAMPLING) for a, b in ((box[0], box[2]), (box[1], box[3])))
    picture = work.resize(size, Image.Resampling.LANCZOS, box)
    light = Image.linear_gradient("L").rotate(rng.choice([0, 90, 180, 270])).resize(size)
    light = light.point(lambda v: round(255 - v * 0.25))
    picture = ImageChops.multiply(picture, Image.merge("RGB", [light] * 3))
    picture = ImageEnhance.Color(picture).enhance(0 if rng.random() < 0.06 else rng.uniform(0.6, 1.15))
    picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.8, 1.15))
    mean = sum(i * n for i, n in enumerate(picture.convert("L").histogram())) / (size[0] * size[1])
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(95, 165) / mean)
    cast = [rng.uniform(0.93, 1.07) for _ in range(3)]
    picture = Image.merge("RGB", [band.point(lambda v, c=c: round(v * c)) for band, c in zip(picture.split(), cast, strict=True)])
    grain = Image.frombytes("L", size, rng.randbytes(size[0] * size[1])).point(lambda v: 128 + (v - 128) // 20)
    picture = ImageChops.overlay(picture, Image.merge("RGB", [grain] * 3))
    limit = rng.uniform(*FILE_BYTES)
    for quality in range(92, 20, -4):
        output = io.BytesIO()
        picture.save(output, "JPEG", quality=quality)
        if output.tell() <= limit:
            break
    return output.getvalue()


def draw_object(label: str, number: int) -> Iterator[bytes]:
    """Yields the photographs of one work, JPEG; each work has a seed of its own."""
    rng = random.Random(f"{label}/{number}")
    longest, aspect = rng.uniform(*LONGEST_SIDES) * OVERSAMPLING, math.exp(rng.uniform(-0.5, 0.5))
    canvas = Canvas(rng, round(longest * min(1, aspect)), round(longest * min(1, 1 / aspect)))
    MANNERS[label](canvas)
    for _ in range(2 if number % SECOND_PHOTOGRAPH_EVERY == 0 else 1):
        yield photograph(canvas.image, rng)


def sample_files() -> Iterator[tuple[str, bytes]]:
    """Yields (name in the archive, content) of the whole sample, in order."""
    yield "SAMPLE.txt", NOTE.encode()
    with Progress("drawing", len(MANNERS) * OBJECTS_PER_LABEL, "objects") as progress:
        for number in range(OBJECTS_PER_LABEL * len(MANNERS)):
            label = list(MANNERS)[number // OBJECTS_PER_LABEL]
            for photo, data in enumerate(draw_object(label, number)):
                suffix = f"_{photo}" if photo else ""
                yield f"met_art/{folder_name(label)}/{FIRST_ID + number}{suffix}.jpg", data
            progress.update()


def write_archive(files: Iterable[tuple[str, bytes]], path: Path) -> None:
    """Writes a .tar.gz that holds no time, owner or machine: equal files, equal bytes."""
    with (
        open_replacing(path, "wb") as output,
        gzip.GzipFile("", "wb", compresslevel=9, fileobj=output, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))


def contact_sheet(files: Iterable[tuple[str, bytes]]) -> Image.Image:
    """Returns a sheet with a row of pictures for each label, `SHEET_COLUMNS` to a row."""
    rows: dict[str, list[bytes]] = {label: [] for label in MANNERS}
    for name, data in files:
        if name.endswith(".jpg"):
            rows[label_of_folder(Path(name).parent)].append(data)
    sheet = Image.new("RGB", (SHEET_COLUMNS * SHEET_CELL, len(rows) * (SHEET_CELL + 24)), "white")
    font, draw = ImageFont.load_default(16), ImageDraw.Draw(sheet)
    for row, (label, pictures) in enumerate(rows.items()):
        top = row * (SHEET_CELL + 24)
        draw.text((4, top + 2), label, "black", font)
        for column, data in enumerate(pictures[:SHEET_COLUMNS]):
            picture = ImageOps.contain(Image.open(io.BytesIO(data)), (SHEET_CELL - 6, SHEET_CELL - 6))
            sheet.paste(picture, (column * SHEET_CELL + (SHEET_CELL - picture.width) // 2, top + 24))
    return sheet


def build_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("sample-dataset.tar.gz"), help="the archive to write")
    parser.add_argument("--contact_sheet", type=Path, help="also write this picture: one row of the sample a label")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    flags = build_parser().parse_args(argv)
    files = list(sample_files())
    write_archive(files, flags.output)
    if flags.contact_sheet:
        with open_replacing(flags.contact_sheet, "wb") as output:
            contact_sheet(files).save(output, "JPEG", quality=80)
    print(f"{len(files) - 1} pictures of {len(MANNERS)} labels, {flags.output.stat().st_size:,} bytes: {flags.output}")


if __name__ == "__main__":
    run(main)
