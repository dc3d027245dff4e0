"""Writes PyTorch checkpoints, good and hostile, without PyTorch.

The bytes are put together instruction by instruction, so that a test can say exactly
what is wrong with a file.
"""

import struct
import zipfile

import numpy as np

STORAGES = {"float32": "FloatStorage", "int64": "LongStorage"}
END = b"."


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value):
    if 0 <= value < 256:
        return b"K" + bytes([value])
    encoded = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def function(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def group(*items):
    return b"(" + b"".join(items) + b"t"


def call(name, *arguments):
    return function(name) + group(*arguments) + b"R"


def dictionary(**items):
    pairs = b"".join(text(key) + value for key, value in items.items())
    return b"}(" + pairs + b"u"


def storage(key, size, *, dtype="float32", legacy=False):
    kind = function(f"torch.{STORAGES[dtype]}")
    view = (b"N",) if legacy else ()
    return (
        group(text("storage"), kind, text(key), text("cpu"), integer(size), *view)
        + b"Q"
    )


def tensor(window, shape, strides=None, *, offset=0):
    if strides is None:
        strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    return call(
        "torch._utils._rebuild_tensor_v2",
        window,
        integer(offset),
        group(*map(integer, shape)),
        group(*map(integer, strides)),
        b"\x89",
        call("collections.OrderedDict"),
    )


def program(body):
    return b"\x80\x02" + body + END


def state_program(state, *, legacy=False):
    """The pickle of a state dict, one storage for each tensor."""
    return program(
        dictionary(
            **{
                name: tensor(
                    storage(
                        str(index),
                        value.size,
                        dtype=value.dtype.name,
                        legacy=legacy,
                    ),
                    value.shape,
                )
                for index, (name, value) in enumerate(state.items())
            }
        )
    )


def write_zip(path, state, *, pickled=None, members=(), compression=0):
    """The zip form. ``pickled`` and ``members`` replace what ``state`` gives."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x/data.pkl", pickled or state_program(state))
        archive.writestr("x/byteorder", "little")
        for index, value in enumerate(state.values()):
            archive.writestr(f"x/data/{index}", np.ascontiguousarray(value).data)
        for name, value in members:
            archive.writestr(name, value)
    return path


def write_legacy(path, state, *, pickled=None, keys=None, little=True):
    """The legacy form."""
    magic = program(b"\x8a\x0a" + bytes.fromhex("6cfc9c46f9206aa85019"))
    flag = b"\x88" if little else b"\x89"
    names = [str(index) for index in range(len(state))] if keys is None else keys
    parts = [
        magic,
        program(b"M\xe9\x03"),
        program(dictionary(little_endian=flag)),
        pickled or state_program(state, legacy=True),
        program(b"](" + b"".join(map(text, names)) + b"e"),
    ]
    for value in state.values():
        parts.append(struct.pack("<q", value.size) + np.ascontiguousarray(value).data)
    path.write_bytes(b"".join(parts))
    return path
