"""A GGUF file taken apart and put together again, so that tests can damage one thing at a time."""

import pathlib
import struct

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TEXT, ARRAY = 8, 9
ALIGNMENT = 32


class Gguf:
    """`entries` is {key: (type, bytes of the value)}, `tensors` is {name: [extents, type, offset]}, `data` the tensors' bytes."""

    def __init__(self, path):
        self.bytes = pathlib.Path(path).read_bytes()
        self.at = 4
        self.version, tensors, entries = self.take("<IQQ")
        self.entries, self.tensors = {}, {}
        for _ in range(entries):
            key = self.text()
            (kind,) = self.take("<I")
            begin = self.at
            self.skip(kind)
            self.entries[key] = (kind, self.bytes[begin:self.at])
        for _ in range(tensors):
            name = self.text()
            (count,) = self.take("<I")
            extents = list(self.take(f"<{count}Q"))
            self.tensors[name] = [extents, *self.take("<IQ")]
        self.data = bytearray(self.bytes[-(-self.at // ALIGNMENT) * ALIGNMENT:])

    def take(self, form):
        values = struct.unpack_from(form, self.bytes, self.at)
        self.at += struct.calcsize(form)
        return values

    def text(self):
        (length,) = self.take("<Q")
        self.at += length
        return self.bytes[self.at - length:self.at].decode()

    def skip(self, kind):
        if kind == TEXT:
            self.text()
        elif kind == ARRAY:
            inner, count = self.take("<IQ")
            for _ in range(count):
                self.skip(inner)
        else:
            self.at += SIZES[kind]

    def texts(self, key):
        """The elements of an array of texts."""
        raw, texts, at = self.entries[key][1], [], 12
        while at < len(raw):
            (length,) = struct.unpack_from("<Q", raw, at)
            texts.append(raw[at + 8:at + 8 + length].decode())
            at += 8 + length
        return texts

    def set_text(self, key, text):
        self.entries[key] = (TEXT, struct.pack("<Q", len(text.encode())) + text.encode())

    def set_texts(self, key, texts):
        packed = b"".join(struct.pack("<Q", len(text.encode())) + text.encode() for text in texts)
        self.entries[key] = (ARRAY, struct.pack("<IQ", TEXT, len(texts)) + packed)

    def cut_array(self, key, count, size):
        """Keeps the first `count` elements of an array of numbers of `size` bytes."""
        kind, raw = self.entries[key]
        self.entries[key] = (kind, raw[:4] + struct.pack("<Q", count) + raw[12:12 + count * size])

    def write(self, path, tensor_count=None):
        packed = [b"GGUF", struct.pack("<IQQ", self.version, len(self.tensors) if tensor_count is None else tensor_count, len(self.entries))]
        for key, (kind, raw) in self.entries.items():
            packed += [struct.pack("<Q", len(key.encode())), key.encode(), struct.pack("<I", kind), raw]
        for name, (extents, kind, offset) in self.tensors.items():
            packed += [struct.pack("<Q", len(name.encode())), name.encode(), struct.pack(f"<I{len(extents)}Q", len(extents), *extents),
                       struct.pack("<IQ", kind, offset)]
        head = b"".join(packed)
        pathlib.Path(path).write_bytes(head + bytes(-len(head) % ALIGNMENT) + self.data)
