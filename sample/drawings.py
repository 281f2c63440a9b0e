"""The five styles of the sample pictures, each a function that draws one work on a canvas.

Every style takes its colours from the same palettes, so that structure tells them apart and colour does not.
Points are complex numbers, x + y * 1j with y downwards: adding moves them, multiplying turns them.
"""

from collections.abc import Callable, Iterable, Sequence
import math
import random
from typing import Any

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, ...]  # RGB, or RGBA to let what is below show through.
WHITE = (255, 252, 244)
# Ground, four hues that change places, ink.
PALETTES = (
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
# A quarter of each quilt block, on the square from 0 to 1 + 1j, as (fabric, corners) above fabric 0.
BLOCKS: tuple[list[tuple[int, list[complex]]], ...] = (
    [(1, [0, 1, 1 + 1j]), (2, [0, 0.5 + 0.5j, 1j])],  # Pinwheel.
    [
        (1, [0.5 + 0.5j, 1 + 0.5j, 1 + 1j, 0.5 + 1j]),
        (2, [0.5, 0.5 + 0.5j, 1 + 0.5j]),
        (2, [0.5j, 0.5 + 0.5j, 0.5 + 1j]),
    ],  # Star.
    [(1, [1j, 1, 1 + 1j]), (2, [0.5 + 1j, 1 + 0.5j, 1 + 1j]), (3, [0, 0.5, 0.5j])],  # Diamonds.
    [(1, [0.5j, 0.5, 1 + 0.5j]), (2, [1j, 0.5 + 0.5j, 1 + 1j])],  # Flying geese.
    [(1, [0, 0.66, 0.66 + 0.66j, 0.66j]), (2, [0.66 + 0.66j, 1 + 0.66j, 1 + 1j, 0.66 + 1j])],  # Nine patch.
    [(1 + i % 3, [i / 5 * (1 + 1j), 2 - i / 5 * (1 - 1j), 1 + 1j]) for i in range(5)],  # Log cabin.
)
# Mostly plain, stripes, checks: rectangles as shares of the step at which they repeat. Fine prints would look from afar
# like the dots of another style.
PRINTS: tuple[tuple[tuple[float, float], ...], ...] = ((), (), (), ((0.4, 1),), ((0.4, 1), (1, 0.4)))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Returns the colour `share` of the way from one to another."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


class Canvas:
    """A ground to draw on, its short side 100 units long."""

    def __init__(self, rng: random.Random, size: tuple[int, int]):
        self.rng, self.scale = rng, min(size) / 100
        self.width, self.height = (side / self.scale for side in size)
        ground, *self.hues, self.ink = [tuple(bytes.fromhex(text)) for text in rng.choice(PALETTES).split()]
        rng.shuffle(self.hues)
        if rng.random() < 0.1:  # A night.
            ground, self.ink = self.ink, ground
        self.ground = mix(ground, rng.choice(self.hues), rng.uniform(0, 0.45))
        self.image = Image.new("RGB", size, self.ground)
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def anywhere(self, top: float = 0, bottom: float = 1) -> complex:
        """Returns a random point between two heights, given as shares of the canvas."""
        return complex(self.rng.uniform(0, self.width), self.rng.uniform(top, bottom) * self.height)

    def pixels(self, *points: complex) -> list[float]:
        return [part * self.scale for point in points for part in (point.real, point.imag)]

    def line(self, points: Iterable[complex], colour: Colour, width: float) -> None:
        self.draw.line(self.pixels(*points), colour, max(1, round(width * self.scale)), "curve")

    def polygon(self, points: Sequence[complex], fill: Colour, edge: Colour | None = None, width: float = 0.5) -> None:
        self.draw.polygon(self.pixels(*points), fill)
        if edge:
            self.line([*points, points[0]], edge, width)

    def disc(
        self, centre: complex, radius: complex, fill: Colour | None, edge: Colour | None = None, width: float = 0.5
    ) -> None:
        """Draws a circle, or an ellipse where the radius has two parts."""
        radius = complex(radius.real, radius.imag or radius.real)
        box = self.pixels(centre - radius, centre + radius)
        self.draw.ellipse(box, fill, edge, max(1, round(width * self.scale)))

    def stroke(self, start: complex, end: complex, width: float, colour: Colour) -> None:
        """Draws the mark of a brush: pointed ends, and a belly nearer to its start."""
        along = end - start
        across = along / (abs(along) or 1) * 1j * width / 2
        self.polygon([start, start + along * 0.35 + across, end, start + along * 0.35 - across], colour)

    def signs(self, corner: complex, count: int, size: float, colour: Colour) -> None:
        """Writes a column of signs that look written and say nothing."""
        for sign in range(count):
            for along in self.rng.choices((0.7 - 0.08j, 0.5 - 0.05j, 0.6j, 0.4j - 0.25, 0.3 + 0.3j), k=6):
                start = corner + size * complex(self.rng.uniform(0, 0.35), sign * 1.15 + self.rng.uniform(0.05, 0.45))
                self.line((start, start + along * size), colour, size * 0.09)

    def gradient(self, top: float, bottom: float, first: Colour, second: Colour) -> None:
        """Fills the canvas between two heights, in units, from colour to colour."""
        size = (self.image.width, max(1, round((bottom - top) * self.scale)))
        ramp = Image.linear_gradient("L").resize(size)
        fill = Image.composite(Image.new("RGB", size, second), Image.new("RGB", size, first), ramp)
        self.image.paste(fill, (0, round(top * self.scale)))

    def grain(self, across: float, down: float, strength: float) -> None:
        """Lightens and darkens in patches of so many units: silk, wood, cloth, plaster."""
        size = round(self.width / across) + 1, round(self.height / down) + 1
        noise = Image.frombytes("L", size, self.rng.randbytes(size[0] * size[1]))
        noise = noise.resize(self.image.size, Image.Resampling.BICUBIC).point(lambda v: 128 + (v - 128) * strength)
        self.image.paste(ImageChops.overlay(self.image, Image.merge("RGB", [noise] * 3)))


def draw_quilt(canvas: Canvas) -> None:
    """Draws patchwork: two kinds of block in printed cottons, seams and stitches."""
    rng, size = canvas.rng, canvas.image.size
    side = 100 / rng.uniform(2.3, 5)
    columns, rows = int((canvas.width - side / 4) / side), int((canvas.height - side / 4) / side)
    origin = complex(canvas.width - columns * side, canvas.height - rows * side) / 2
    kinds = [(block, rng.sample(range(6), 6)) for block in rng.sample(BLOCKS, 2)]
    pieces = [(kinds[0][1][5], [0, canvas.width, complex(canvas.width, canvas.height), canvas.height * 1j])]
    for row in range(rows):
        for column in range(columns):
            block, order = kinds[(row + column) % 2]
            corner = origin + side * complex(column, row)
            pieces.append((order[0], [corner + side * point for point in (0, 1, 1 + 1j, 1j)]))
            for turn in (1, 1j, -1, -1j):
                for fabric, corners in block:
                    turned = [1 + 1j + (point - 1 - 1j) * turn for point in corners]
                    pieces.append((order[fabric], [corner + side / 2 * point for point in turned]))
    plan = Image.new("L", size)  # The number of the fabric at each pixel.
    for number, corners in pieces:
        ImageDraw.Draw(plan).polygon(canvas.pixels(*corners), number)
    for number, colour in enumerate((canvas.ground, *canvas.hues, canvas.ink)):
        step = round(rng.uniform(4, 6) * canvas.scale)
        tile, cloth = Image.new("RGB", (step, step), colour), Image.new("RGB", size)
        for across, down in rng.choice(PRINTS):
            figure = (*rng.choice((canvas.ground, canvas.ink, *canvas.hues)), 130)
            ImageDraw.Draw(tile, "RGBA").rectangle((0, 0, across * step - 1, down * step - 1), figure)
        for x in range(0, size[0], step):
            for y in range(0, size[1], step):
                cloth.paste(tile, (x, y))
        canvas.image.paste(cloth, mask=plan.point([255 * (value == number) for value in range(256)]))
    for _, corners in pieces:
        for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
            canvas.line((start, end), (20, 15, 10, 120), 0.4)
            stitches = int(abs(end - start) / 2.6)
            for i in range(stitches):
                canvas.line(
                    [start + (end - start) * (i + t) / stitches + 1 + 1j for t in (0.2, 0.65)], (*WHITE, 120), 0.35
                )
    canvas.grain(3, 3, 0.04)


def draw_ink(canvas: Canvas) -> None:
    """Draws with brush and wash on silk: peaks in mist with pines, or bamboo; an inscription and a seal."""
    rng, ink = canvas.rng, canvas.ink
    canvas.gradient(0, canvas.height, canvas.ground, mix(canvas.ground, canvas.hues[1], rng.uniform(0, 0.4)))
    if rng.random() < 0.4:
        canvas.disc(canvas.anywhere(0.15, 0.3), 9, (*mix(canvas.ground, canvas.hues[2], 0.6), 150))
    if rng.random() < 0.3:
        for stalk in range(rng.randint(4, 7)):
            tone = mix(mix(ink, canvas.hues[0], 0.25), canvas.ground, rng.uniform(0, 0.65) * (stalk < 4))
            _bamboo(canvas, canvas.anywhere(1.05, 1.05), rng.uniform(1.5, 4), (*tone, 215))
    else:
        layers = rng.randint(3, 5)
        for layer in range(layers):
            _peaks(canvas, (layer + 1) / layers)
        for _ in range(rng.randint(2, 4)):
            _pine(canvas, canvas.anywhere(0.9, 1), rng.uniform(2, 3.6), (*ink, 200))
    size, corner = rng.uniform(3.5, 5), complex(rng.choice((8, canvas.width - 26)), 9)
    for column in range(rng.randint(2, 3)):
        canvas.signs(corner + column * size * 1.3, rng.randint(4, 6), size, (*ink, 225))
    canvas.polygon([corner + size * (7.3j + point) for point in (0, 1.2, 1.2 + 1.2j, 1.2j)], canvas.hues[3])
    canvas.signs(corner + size * (0.2 + 7.4j), 1, size, canvas.ground)
    canvas.grain(0.3, 10, 0.16)
    canvas.grain(10, 0.3, 0.12)


def _peaks(canvas: Canvas, near: float) -> None:
    """Draws one range of steep peaks that fades downwards into mist; `near` in (0, 1]."""
    rng = canvas.rng
    level, height, depth = 0.3 + 0.66 * near, rng.uniform(0.2, 0.42), rng.uniform(0.1, 0.2) * canvas.height
    peaks = [[rng.uniform(*span) for span in ((-0.1, 1.1), (0.05, 0.22), (0.8, 2.2), (0.3, 1))] for _ in range(5)]
    ridge, wobble = [], 0.0
    for x in (i / 160 for i in range(161)):
        wobble = wobble * 0.86 + rng.uniform(-0.012, 0.012)
        rise = max(tall * max(0, 1 - (abs(x - at) / wide) ** power) for at, wide, power, tall in peaks)
        ridge.append(complex(x * canvas.width, (level - height * rise + wobble) * canvas.height))
    foot = [complex(canvas.width, 2 * canvas.height), 2j * canvas.height]
    body, inside = Image.new("L", canvas.image.size), Image.new("L", canvas.image.size)
    ImageDraw.Draw(body).polygon(canvas.pixels(*ridge, *foot), 255)
    ImageDraw.Draw(inside).polygon(canvas.pixels(*(point + depth * 0.7j for point in ridge), *foot), 255)
    inside = inside.filter(ImageFilter.GaussianBlur(canvas.scale * depth / 3))
    wash = mix(mix(canvas.hues[0], canvas.ground, 0.7 - 0.6 * near), canvas.ink, 0.15 + 0.55 * near)
    canvas.image.paste(canvas.ground, mask=body.point(lambda v: v * 0.7))
    canvas.image.paste(wash, mask=ImageChops.subtract(body, inside).point(lambda v: v * 0.85))
    for _ in range(round(260 * near)):
        i, length, tone = rng.randrange(1, 160), rng.uniform(1.5, 7) * near, mix(wash, canvas.ink, 0.6)
        slope = max(-1, min(1, (ridge[i + 1].imag - ridge[i - 1].imag) / canvas.width * 40))
        start = ridge[i] + 1j * rng.random() ** 1.6 * depth
        canvas.stroke(start, start + length * (slope + 1j), rng.uniform(0.4, 1.2), (*tone, rng.randint(50, 150)))
    for point in rng.sample(ridge, 50):
        canvas.disc(point, (1.6 + 1j) * rng.uniform(0.4, 1.2) * near, (*canvas.ink, round(170 * near)))


def _pine(canvas: Canvas, foot: complex, step: float, ink: Colour) -> None:
    rng = canvas.rng
    for i in range(9):
        top = foot + step * complex(rng.uniform(-0.6, 0.7), -1)
        canvas.line((foot, top), ink, step * (0.55 - i * 0.04))
        foot = top
        for _ in range(3 if i > 2 else 0):
            tip = foot + step * complex(rng.uniform(-3, 3) * (1.2 - i / 12), rng.uniform(-0.4, 0.4))
            canvas.stroke(foot, tip, 0.6, ink)
            for needle in range(11):
                canvas.stroke(tip, tip + step * rng.uniform(0.7, 1.1) * 1j ** (2.1 + needle * 0.18), 0.5, ink)


def _bamboo(canvas: Canvas, foot: complex, thick: float, tone: Colour) -> None:
    rng = canvas.rng
    lean = rng.uniform(-0.15, 0.15) - 1j
    while foot.imag > -20:
        top = foot + rng.uniform(15, 22) * lean
        canvas.line((foot, top), tone, thick)
        canvas.stroke(top - thick, top + thick, 1, tone)
        foot = top - 1j
        for _ in range(rng.choice((0, 1, 2, 2))):
            tip = foot + complex(rng.uniform(-14, 14), rng.uniform(-6, 8))
            canvas.stroke(foot, tip, 0.5, tone)
            for _ in range(rng.randint(4, 7)):
                canvas.stroke(tip, tip + rng.uniform(9, 16) * 1j ** rng.uniform(0.2, 1.8), 2.4, tone)


def draw_dots(canvas: Canvas) -> None:
    """Draws a garden with a pond or a path and strollers under parasols, all in dots of unmixed colour."""
    rng = canvas.rng
    _garden(canvas)
    scene = canvas.image.filter(ImageFilter.GaussianBlur(canvas.scale * 0.4))
    pixels: Any = scene.load()
    canvas.image.paste(mix(canvas.ground, canvas.hues[1], 0.3), (0, 0, *scene.size))
    size, paints = rng.uniform(0.8, 1.3), [canvas.ground, canvas.ink, *canvas.hues]
    for _ in range(round(canvas.width * canvas.height / size**2 * 0.85)):
        point = canvas.anywhere()
        x, y = map(int, canvas.pixels(point))
        seen = pixels[min(x, scene.width - 1), min(y, scene.height - 1)]
        canvas.disc(point, size * rng.uniform(0.6, 1.1), mix(seen, rng.choice(paints), rng.choice((0, 0.1, 0.2, 0.45))))


def _garden(canvas: Canvas) -> None:
    rng, width, height, (sky, flower, grass, leaf) = canvas.rng, canvas.width, canvas.height, canvas.hues
    light, dark, horizon = mix(canvas.ground, WHITE, 0.3), canvas.ink, canvas.height * rng.uniform(0.32, 0.55)

    def on_lawn(depth: float) -> complex:
        return complex(rng.uniform(0, width), horizon + depth * (height - horizon))

    canvas.gradient(0, horizon, mix(sky, light, 0.25), mix(light, flower, 0.2))
    for _ in range(3):
        hill = complex(rng.uniform(0.2, 0.5) * width, rng.uniform(0.05, 0.14) * height)
        canvas.disc(on_lawn(0), hill, mix(grass, sky, rng.uniform(0.2, 0.7)))
    canvas.gradient(horizon, height, mix(grass, light, 0.4), mix(grass, dark, 0.35))
    middle, wide = complex(rng.uniform(0.2, 0.8) * width, horizon), rng.uniform(0.3, 0.5) * width
    if rng.random() < 0.5:
        canvas.disc(middle + 0.2j * height, complex(wide, 0.11 * height), mix(sky, light, 0.55))
    else:
        canvas.polygon([middle, middle + wide / 9, complex(wide * 1.6, height), complex(wide * 0.4, height)], light)
    for depth in sorted(rng.uniform(0, 0.35) for _ in range(rng.randint(3, 8))):
        foot, high = on_lawn(depth), rng.uniform(0.22, 0.5) * height
        crown = high * complex(rng.choice((0.11, 0.33)), 0.42)
        canvas.disc(foot + crown.real * 1.2, complex(crown.real * 2, 0.025 * height), mix(grass, dark, 0.65))
        canvas.line((foot, foot - high * 0.5j), mix(dark, flower, 0.2), crown.real * 0.25)
        canvas.disc(foot - high * 0.58j, crown, mix(leaf, dark, rng.uniform(0.2, 0.5)))
        canvas.disc(foot - high * 0.64j - crown.real * 0.2, crown * 0.7, mix(leaf, light, 0.3))
    for _ in range(rng.randint(200, 500)):
        depth = rng.uniform(0.1, 1)
        canvas.disc(on_lawn(depth**1.3), 0.4 + 1.6 * depth, rng.choice((flower, leaf, light)))
    for depth in sorted(rng.uniform(0.5, 0.95) for _ in range(rng.randint(1, 4))):
        foot, high = on_lawn(depth), (0.12 + 0.2 * depth) * height
        dress, parasol = rng.sample((flower, leaf, sky, light, dark), 2)
        canvas.disc(foot + high * 0.2, high * (0.45 + 0.05j), mix(grass, dark, 0.8))
        canvas.polygon([foot - high * 0.78j, foot + high * 0.22, foot - high * 0.22], mix(dress, dark, 0.25))
        canvas.disc(foot - high * 0.8j, high * 0.08, mix(light, flower, 0.3))
        canvas.polygon([foot + high * (-0.82j + 0.34 * 1j ** (2 + i / 6)) for i in range(13)], parasol)


def draw_gold(canvas: Canvas) -> None:
    """Draws saints under pointed arches on tooled gold ground, with the cracks of age."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    gold, spandrel = rng.sample(canvas.hues, 2)
    gold = mix(gold, (222, 176, 72), rng.uniform(0, 0.5))
    dark, bright, step = mix(gold, canvas.ink, 0.65), mix(gold, WHITE, 0.5), rng.uniform(3.5, 5.5)
    canvas.image.paste(mix(spandrel, canvas.ink, 0.25), (0, 0, *canvas.image.size))
    lattice = [
        step * complex(i, j + i % 2 / 2) for i in range(int(width / step) + 2) for j in range(int(height / step) + 2)
    ]
    for point in lattice:
        canvas.disc(point, step * 0.17, mix(spandrel, gold, 0.6))
    niches = max(1, round(width / height * rng.uniform(1.2, 2)))
    wide, foot, top = (width - 10) / niches - 2, height - 6, rng.uniform(6, 8)
    high = min(wide * 0.8, height * 0.35)
    rises = [math.sqrt(1 - (1 - i / 32) ** 2) / math.sqrt(0.75) for i in range(17)]  # Of half a pointed arch.
    half = [complex(wide * i / 32, top + high * (1 - rise)) for i, rise in enumerate(rises)]
    for niche in range(niches):
        left = 6 + niche * (wide + 2)
        arch = [left + point for point in half] + [left + wide - point.conjugate() for point in reversed(half)]
        outline = [left + foot * 1j, *arch, left + wide + foot * 1j]
        canvas.polygon(outline, gold)
        for point in lattice:
            if left + 2 < point.real < left + wide - 2 and top + high * 0.6 < point.imag < foot:
                canvas.line((point - step * 0.4, point + step * 0.4), dark, 0.35)
                canvas.line((point - step * 0.4j, point + step * 0.4j), dark, 0.35)
        r = min(wide * 0.15, (foot - top) * 0.11)
        head = complex(left + wide / 2, top + high * 0.3 + r * rng.uniform(2.2, 3))
        _saint(canvas, head, r, foot, min(3.4, wide / r * 0.36), gold)
        if rng.random() < 0.35:
            _saint(canvas, head + r * (rng.choice((-1, 1)) + 2.6j), r * 0.55, head.imag + r * 5.5, 1.2, gold)
        canvas.line([*outline, outline[0]], dark, 2.4)
        canvas.line([*outline, outline[0]], bright, 1.4)
        for point in arch[::2]:
            canvas.disc(point, 1.2, bright, dark, 0.3)
    for _ in range(70):
        point, angle = canvas.anywhere(), rng.uniform(0, 4)
        for _ in range(rng.randint(3, 12)):
            angle += rng.uniform(-0.4, 0.4)
            canvas.line((point, point + 4 * 1j**angle), (*canvas.ink, 90), 0.2)
            point += 4 * 1j**angle
    canvas.grain(1.5, 1.5, 0.12)


def _saint(canvas: Canvas, head: complex, r: float, foot: float, spread: float, gold: Colour) -> None:
    """Draws a figure by the radius of its head, down to the height `foot`; its hem is `spread` heads to each side."""
    rng, ink, shares = canvas.rng, canvas.ink, [i / 24 for i in range(25)]
    mantle, robe = rng.sample(canvas.hues, 2)
    dark, skin = mix(gold, ink, 0.7), mix((226, 182, 140), canvas.ground, 0.2)

    def edge(share: float, side: float) -> complex:
        x = side * r * (0.75 + spread * share**0.55)
        return head + complex(x, r * 0.3 + share * (foot - head.imag))

    canvas.disc(head, r * 2.1, mix(gold, WHITE, 0.4), dark, r * 0.1)
    for ring in (1.92, 1.55):
        canvas.disc(head, r * ring, None, dark, r * 0.06)
        for i in range(28):
            canvas.disc(head + r * (ring - 0.18) * 1j ** (i / 7), r * 0.08, dark)
    canvas.polygon([edge(s, -1) for s in shares] + [edge(s, 1) for s in reversed(shares)], mantle)
    canvas.disc(head - 0.1j * r, r * (1.15 + 1.3j), mantle)
    canvas.polygon(
        [head + 0.6j * r, *(edge(s, -0.4) for s in shares[3:]), *(edge(s, 0.3) for s in shares[:2:-1])], robe
    )
    for fold in range(-8, 9):
        tone = mix(mantle if abs(fold) > 3 else robe, ink if fold % 2 else WHITE, 0.4)
        canvas.line([edge(s, fold / 8.5 + 0.03 * math.sin(s * 9 + fold)) for s in shares[5:]], (*tone, 180), r * 0.1)
    for side in (-1, 1):
        canvas.line([edge(s, side) for s in shares], gold, r * 0.15)
        canvas.stroke(head + r * (side * 2.2 + 3.9j), head + r * (side * 0.1 + 2.3j), r * 1.3, mix(mantle, ink, 0.25))
        canvas.stroke(head + r * (side * 0.6 + 3j), head + r * (side * 0.04 + 1.6j), r * 0.5, skin)
    face, shade = head + rng.choice((-0.2, 0.2)) * r, mix(skin, (100, 50, 35), 0.75)
    canvas.disc(face, r * (0.74 + 1j), skin, shade, r * 0.04)
    for aside in (-0.33, 0.31):
        for level, bend, width in ((-0.06, 0.9, 0.1), (-0.38, -0.9, 0.06)):  # Lowered lid, brow.
            curve = [complex(aside + t, level + bend * (0.04 - t * t)) for t in (-0.2, -0.1, 0, 0.1, 0.2)]
            canvas.line([face + r * point for point in curve], shade, r * width)
    canvas.line([face + r * point for point in (-0.02 - 0.25j, -0.12 + 0.25j, 0.06 + 0.25j)], shade, r * 0.07)
    canvas.line([face + r * point for point in (-0.16 + 0.52j, 0.16 + 0.52j)], (165, 70, 60), r * 0.1)


def draw_print(canvas: Canvas) -> None:
    """Draws flat colours in firm outlines: a sea of scales, breaking waves, a mountain, bands of cloud, blossom."""
    rng, width, height, ink = canvas.rng, canvas.width, canvas.height, canvas.ink
    sky, yellow, water, red = canvas.hues
    foam, sea, radius = mix(canvas.ground, WHITE, 0.4), height * rng.uniform(0.4, 0.65), rng.uniform(4, 8)
    canvas.gradient(0, sea * 0.45, sky, canvas.ground)
    canvas.gradient(sea * 0.6, sea, canvas.ground, mix(yellow, canvas.ground, 0.4))
    if rng.random() < 0.5:
        canvas.disc(canvas.anywhere(0.12, 0.3), rng.uniform(7, 13), red, ink)
    if rng.random() < 0.65:
        _mountain(canvas, sea, water, foam)
    for _ in range(rng.randint(1, 4)):
        start, long = canvas.anywhere(0.1, 0.9 * sea / height) - width / 5, rng.uniform(0.2, 0.6) * width
        for corner in (start, start + 8 + 3.4j):
            box = canvas.pixels(corner, corner + long + 3.4j)
            canvas.draw.rounded_rectangle(box, 1.7 * canvas.scale, foam, ink, round(0.5 * canvas.scale))
    for row in range(int((height - sea) / radius * 2) + 2):
        for column in range(int(width / radius / 2) + 2):
            centre = complex((2 * column - row % 2) * radius, sea + radius * (1 + row / 2))
            for i in range(4):
                canvas.disc(centre, radius * (1 - i / 4), foam if i % 2 else water, ink)
    for _ in range(rng.choice((0, 1, 1, 2))):
        _wave(canvas, canvas.anywhere(sea / height, sea / height + 0.2), rng.uniform(16, 30), water, foam)
    if rng.random() < 0.4:
        _blossom(canvas, mix(red, WHITE, 0.45), yellow)
    corner = rng.choice((8, width - 15)) + 8j
    canvas.polygon([corner, corner + 7, corner + 7 + 25j, corner + 25j], yellow, ink)
    canvas.signs(corner + 1.8 + 1j, 4, 4.8, ink)
    canvas.grain(20, 0.8, 0.16)


def _mountain(canvas: Canvas, sea: float, colour: Colour, snow: Colour) -> None:
    rng = canvas.rng
    foot = complex(rng.uniform(0.25, 0.75) * canvas.width, sea)
    wide, high = rng.uniform(35, 60), sea * rng.uniform(0.45, 0.75)
    right = [complex(wide * t, -high * (1 - t) ** 1.7) for t in (i / 20 for i in range(2, 21))]
    slope = [foot - point.conjugate() for point in reversed(right)] + [foot + point for point in right]
    canvas.polygon(slope, colour)
    cap = [point for point in slope if point.imag < sea - high * 0.5]
    zigzag = [cap[-1] + (cap[0] - cap[-1]) * i / 9 + high * (0.18j if i % 2 else -0.06j) for i in range(1, 9)]
    canvas.polygon([*cap, *zigzag], snow)
    canvas.line(slope, canvas.ink, 0.6)


def _wave(canvas: Canvas, at: complex, size: float, water: Colour, foam: Colour) -> None:
    """Draws a breaking wave: stripes between its back and its hollow, two curves that meet where it curls over."""
    rng, side = canvas.rng, canvas.rng.choice((-1, 1))
    back, hollow = (-6 + 6j, -1.8 + 2j, -1 - 1.6j, 1.25 - 0.1j), (5 + 6j, -1.6 + 2.6j, -0.5 - 1.2j, 1.25 - 0.1j)

    def point(share: float, t: float) -> complex:
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3)  # Of a Bézier curve.
        place = sum((w * (b + (h - b) * share) for w, b, h in zip(weights, back, hollow, strict=True)), 0j)
        return at + size * complex(side * place.real, place.imag)

    steps = [i / 24 for i in range(25)]
    for stripe in range(9):
        outline = [point(stripe / 9, t) for t in steps] + [point((stripe + 1) / 9, t) for t in reversed(steps)]
        canvas.polygon(outline, foam if stripe % 2 else water, canvas.ink)
    for share in (0.3, 0.15, 0):
        for t in (1 - i * 0.03 for i in range(16)):
            canvas.disc(point(share, t), size * rng.uniform(0.05, 0.12) * (t + 0.2), foam, canvas.ink)


def _blossom(canvas: Canvas, petal: Colour, heart: Colour) -> None:
    rng, side, angle = canvas.rng, canvas.rng.choice((-1, 1)), 0.0
    point = complex(0 if side > 0 else canvas.width, rng.uniform(0.1, 0.5) * canvas.height)
    for i in range(16):
        angle = angle * 0.7 + rng.uniform(-0.45, 0.45)
        canvas.line((point, point + side * 6 * 1j**angle), canvas.ink, 3.2 - i * 0.15)
        point += side * 6 * 1j**angle
        for _ in range(rng.randint(1, 3)):
            flower, r = point + complex(rng.uniform(-9, 9), rng.uniform(-9, 9)), rng.uniform(1.2, 1.9)
            canvas.line((point, flower), canvas.ink, 0.8)
            for leaf in range(5):
                canvas.disc(flower + r * 1j ** (leaf * 0.8 + angle), r * 0.85, petal, canvas.ink, 0.35)
            canvas.disc(flower, r * 0.4, heart)


STYLES: dict[str, Callable[[Canvas], None]] = {
    "American": draw_quilt,
    "China": draw_ink,
    "French": draw_dots,
    "Italian, Florence": draw_gold,
    "Japan": draw_print,
}
