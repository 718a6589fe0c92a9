"""sass.py OBJECT...: of each kernel in the machine code that nvcc put into the objects (uncompressed, --no-compress): its name, registers,
bytes of stack, and how many of its instructions are products of a warpgroup, HGMMA or QGMMA. Read from the cubins' ELF tables, so no
tool of the CUDA toolkit is needed."""

import struct
import sys

EM_CUDA = 190
SHT_SYMTAB, SHF_INFO_LINK = 2, 0x40
# Attributes of .nv.info: byte format, byte name, u16 size; with format 4 that many bytes follow.
FORMAT_SIZED, FRAME_SIZE, REGISTERS = 4, 0x11, 0x2F
HGMMA, QGMMA = 0x1F0, 0x1F3  # bits 0 to 8 of an instruction of 128 bits


def cubins(data):
    at = data.find(b"\x7fELF", 1)
    while at >= 0:
        if struct.unpack_from("<H", data, at + 18)[0] == EM_CUDA:
            yield data[at:]
        at = data.find(b"\x7fELF", at + 4)


def kernels(elf):
    table, = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, table + i * size) for i in range(count)]
    text_at = lambda start: elf[start:elf.index(b"\0", start)].decode()
    named = {text_at(sections[names][4] + s[0]): s for s in sections}
    body = lambda s: elf[s[4]:s[4] + s[5]]
    symbols, strings = named[".symtab"], named[".strtab"]
    symbol = lambda i: text_at(strings[4] + struct.unpack_from("<I", elf, symbols[4] + 24 * i)[0])
    stack, registers = {}, {}
    info, at = body(named[".nv.info"]), 0
    while at < len(info):
        form, attribute, length = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != FORMAT_SIZED:
            continue
        if attribute in (FRAME_SIZE, REGISTERS):
            index, value = struct.unpack_from("<II", info, at)
            (stack if attribute == FRAME_SIZE else registers)[symbol(index)] = value
        at += length
    for name, section in named.items():
        if name.startswith(".text."):
            kernel, code = name[len(".text."):], body(section)
            products = sum(struct.unpack_from("<H", code, i)[0] & 0x1FF in (HGMMA, QGMMA) for i in range(0, len(code), 16))
            yield kernel, registers[kernel], stack[kernel], products


for path in sys.argv[1:]:
    for elf in cubins(open(path, "rb").read()):
        for row in kernels(elf):
            print(*row)
