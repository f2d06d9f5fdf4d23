"""Where the scan of a sequential JPEG ends, for files in which bytes are left over behind it.

Either somebody put these bytes there, or the data were damaged: then the decoder lost its place, found it again, and
came to the last block too early. In the first case the scan ends as all do, with ones up to the next byte, and what
follows is no image data. In the second what follows are the blocks that were not reached, to the last bit.
"""

import re
from itertools import count

from imtok.data.reading.jpeg_header import EOI, MARKER, Frame, Segment, segments

LONGEST = 2**21  # bytes that are looked at: this takes seconds
DHT, DRI = 0xC4, 0xDD
_RESTART = re.compile(rb"\xff+[\xd0-\xd7]")

Table = list[tuple[int, int]]  # by the next 16 bits: how many of them are a code, and what it stands for


def without_rest(data: bytes, frame: Frame) -> bytes | None:
    """The file without bytes that were put between its scan and its end mark; None if they may be lost image data.

    Args:
        data: A file with one sequential scan, of which libjpeg warns that bytes are left over.
        frame: Its size and colours.
    """
    head = list(segments(data))
    found = MARKER.search(data, head[-1].end)
    if found is None or data[found.end() - 1] != EOI:  # other scans follow
        return None
    restarts = list(_RESTART.finditer(data, head[-1].end, found.start()))
    start = restarts[-1].end() if restarts else head[-1].end
    if found.start() - start > LONGEST:
        return None
    bits = data[start : found.start()].replace(b"\xff\0", b"\xff")
    try:
        scan = _Scan(bits, data, head, frame)
        at = 0
        for _ in range(scan.units - len(restarts) * scan.interval):
            at = scan.unit(at)
    except (ValueError, IndexError, KeyError):
        return None
    if not scan.is_filled(at) or scan.goes_on(at):
        return None
    return data[:start] + bits[: -(-at // 8)].replace(b"\xff", b"\xff\0") + data[found.start() :]


class _Scan:
    """The bits behind the last restart of a scan, and the tables that read them.

    Args:
        bits: The bits, in bytes.
        data: The file.
        head: Its segments up to the scan's header.
        frame: Its size and colours.

    Attributes:
        units: Units of blocks that the whole scan should have.
        interval: Units between restarts; 0 = there are none.
    """

    def __init__(self, bits: bytes, data: bytes, head: list[Segment], frame: Frame) -> None:
        self.bits, self.total = bits + bytes(4), 8 * len(bits)
        tables: dict[int, Table] = {}
        blocks: dict[int, tuple[int, int]] = {}
        self.interval = 0
        for marker, start, end in head[:-1]:
            if marker == DHT:
                tables |= _tables(data[start + 4 : end])
            elif marker == DRI:
                self.interval = int.from_bytes(data[start + 4 : start + 6])
            elif marker == frame.marker:
                sides = data[start + 10 : end]
                blocks = {sides[at]: divmod(sides[at + 1], 16) for at in range(0, 3 * frame.colours, 3)}
        named = data[head[-1].start + 5 :][: 2 * data[head[-1].start + 4]]
        chosen = {named[at]: divmod(named[at + 1], 16) for at in range(0, len(named), 2)}
        wide, high = (max(sides) for sides in zip(*blocks.values(), strict=True))
        if len(chosen) != frame.colours:
            raise ValueError("the scan is of some of the colours")
        if frame.colours == 1:  # alone, a colour has units of one block
            wide = high = 1
            blocks = dict.fromkeys(blocks, (1, 1))
        self.parts: list[tuple[Table, Table]] = []  # tables of each block of a unit: for its mean, and for all else
        for name, (mean, rest) in chosen.items():
            self.parts += [(tables[mean], tables[16 + rest])] * (blocks[name][0] * blocks[name][1])
        self.units = -(-frame.width // (8 * wide)) * -(-frame.height // (8 * high))

    def unit(self, at: int) -> int:
        """Where the unit of blocks ends that begins at bit ``at``; ValueError if there is none."""
        for mean, rest in self.parts:
            length, size = mean[self._next(at)]
            at += length + size
            place = 1 if length else 64
            while place < 64:
                length, symbol = rest[self._next(at)]
                at += length + symbol % 16
                if symbol % 16 == 0 and symbol != 0xF0:  # the end of the block, or no code
                    break
                place += symbol // 16 + 1
            if not length or at > self.total:
                raise ValueError("no image data")
        return at

    def is_filled(self, at: int) -> bool:
        """Whether the byte that bit ``at`` lies in goes on with ones."""
        left = -at % 8
        return self.bits[at // 8] % 2**left == 2**left - 1

    def goes_on(self, at: int) -> bool:
        """Whether all that follows is image data, up to less than a byte of ones."""
        for found in count():
            if self.total - at < 8:
                return found > 0 and self.is_filled(at)
            try:
                at = self.unit(at)
            except ValueError:
                return False
        raise AssertionError

    def _next(self, at: int) -> int:
        return int.from_bytes(self.bits[at // 8 : at // 8 + 4].ljust(4, b"\0")) >> (16 - at % 8) & 0xFFFF


def _tables(segment: bytes) -> dict[int, Table]:
    """Huffman tables by number, those for all but the mean from 16 on."""
    found: dict[int, Table] = {}
    at = 0
    while at + 17 <= len(segment):
        table: Table = []
        symbols = at + 17
        for length, number in enumerate(segment[at + 1 : at + 17], start=1):
            for symbol in segment[symbols : symbols + number]:
                table += [(length, symbol)] * 2 ** (16 - length)
            symbols += number
        found[segment[at]] = (table + [(0, 0)] * 2**16)[: 2**16]
        at = symbols
    return found
