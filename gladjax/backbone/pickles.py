"""A reader of the pickles inside PyTorch checkpoints that builds only data.

A pickle is a program for a stack machine; one of its instructions calls any function of
any installed module. `load` runs the instructions that dictionaries, tuples, numbers,
strings and tensors need and no other: a global outside a list of thirteen names is
refused by its name, an instruction outside the list below by its. Nothing is imported,
nothing is called, and what is allocated is bounded by the size of the pickle. A memo
can nest a value in itself, so a few bytes may stand for more numbers than there are
atoms: nothing is printed, multiplied or walked through before its length is known.

Notation: ``Storage`` is a named run of bytes elsewhere in the file, ``Tensor`` a
strided window on it.

Differs from the reference in:

1. `pickle.Unpickler` allocates its memo as the file demands; here it is a dictionary.
2. Keys of dictionaries are strings or integers, so that nothing nested is ever hashed.

Reference: the documentation of the standard library's ``pickletools``.
"""

import collections
import io
import math
import mmap
import pickletools
import warnings
from collections.abc import Callable
from typing import IO, Any, NamedTuple, cast

_DTYPES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_MOST = 1 << 20  # Instructions, and items of dictionaries, of one pickle.
_AXES = 64  # Of a tensor: NumPy's own limit.
_LARGEST = 2**64  # Above all sizes.
_GLOBALS = {_ORDERED_DICT, _TENSOR, _PARAMETER, *_DTYPES}


class PickleError(ValueError):
    """The pickle is damaged or asks for something that is not data."""


class Global(NamedTuple):
    """A permitted global, by its name; never the object."""

    name: str


class Storage(NamedTuple):
    """A run of ``size`` numbers kept elsewhere in the file under ``key``."""

    key: str
    dtype: str
    size: int


class Tensor(NamedTuple):
    """A window on a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Opens a group of stack entries."""


class _Machine:
    """Stack and memo of one run."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.items = 0  # Of dictionaries that a list was turned into.

    def pop(self) -> Any:  # noqa: ANN401 - any datum
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise PickleError("an instruction lacks its operand")
        return value

    def group(self) -> list[Any]:
        """Pops everything above the last mark, and the mark."""
        values: list[Any] = []
        while not isinstance(self.stack[-1], _Mark):
            values.append(self.stack.pop())
        self.stack.pop()
        return values[::-1]


def load(file: mmap.mmap | io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Reads one pickle and leaves the file behind its end.

    Args:
      file: Bytes in memory or a mapped file, positioned at a pickle. (An ordinary file
        would allocate whatever length an instruction claims.)

    Returns:
      The object (dictionaries, lists, tuples, numbers, strings, ``None`` and `Tensor`)
      and the storages it names, by key.

    Raises:
      PickleError: If the pickle is cut short or damaged, or asks for a global or an
        instruction that data do not need; the message names it.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # Decoding an old text instruction, to be refused next, may warn.
            warnings.simplefilter("ignore", DeprecationWarning)
            _run(machine, file)
        result = machine.pop()
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PickleError(f"the pickle is cut short or damaged ({error})") from error
    if machine.stack:
        raise PickleError("the pickle is damaged: data left on its stack")
    return result, machine.storages


def _run(machine: _Machine, file: mmap.mmap | io.BytesIO) -> None:
    """Executes the instructions of one pickle."""
    program = enumerate(pickletools.genops(cast(IO[bytes], file)))
    for done, (opcode, argument, _) in program:
        if done + machine.items > _MOST:
            raise PickleError(f"the pickle has more than {_MOST} instructions or items")
        if opcode.name == "STOP":
            return
        instruction = _INSTRUCTIONS.get(opcode.name)
        if instruction is None:
            raise PickleError(f"refused the instruction {opcode.name}")
        instruction(machine, argument)


def _push(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    machine.stack.append(argument)


def _push_constant(value: Any) -> Callable[[_Machine, Any], None]:  # noqa: ANN401
    return lambda machine, _: machine.stack.append(value)


def _push_new(build: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(build())


def _nothing(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    del machine, argument


def _push_tuple(count: int) -> Callable[[_Machine, Any], None]:
    def run(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
        del argument
        values = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(values[::-1]))

    return run


def _group_tuple(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    del argument
    machine.stack.append(tuple(machine.group()))


def _put(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    machine.memo[len(machine.memo) if argument is None else argument] = machine.stack[
        -1
    ]


def _get(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    machine.stack.append(machine.memo[argument])


def _global(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    name = str(argument).replace(" ", ".")
    if name not in _GLOBALS:
        raise PickleError(f"refused the global {name}")
    machine.stack.append(Global(name))


def _stack_global(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    del argument
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise PickleError("refused a global whose name is no text")
    _global(machine, f"{module}.{name}")


def _append(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    del argument
    _extend(machine, [machine.pop()])


def _appends(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    del argument
    _extend(machine, machine.group())


def _extend(machine: _Machine, values: list[Any]) -> None:
    if type(machine.stack[-1]) is not list:
        raise PickleError("the pickle is damaged: items for something not a list")
    machine.stack[-1].extend(values)


def _set_item(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    del argument
    value, key = machine.pop(), machine.pop()
    _update(machine.stack[-1], [key, value])


def _set_items(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    del argument
    values = machine.group()
    _update(machine.stack[-1], values)


def _update(target: Any, values: list[Any]) -> None:  # noqa: ANN401
    if not isinstance(target, dict) or len(values) % 2:
        raise PickleError("the pickle is damaged: items for something not a dict")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, (str, int)):
            raise PickleError(f"refused a key of type {type(key).__name__}")
        target[key] = value


def _build(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    """Drops the attributes (``_metadata``) that a state dict carries."""
    del argument
    machine.pop()
    if not isinstance(machine.stack[-1], dict):
        raise PickleError("refused attributes for something not a dict")


def _persistent(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    """A storage: ("storage", type, key, device, size[, view])."""
    del argument
    kind, storage_type, key, _, size, *view = machine.pop()
    if kind != "storage" or not isinstance(storage_type, Global):
        raise PickleError("refused a persistent object that is no storage")
    if storage_type.name not in _DTYPES or view not in ([], [None]):
        raise PickleError(f"refused a storage of type {storage_type.name}")
    if not isinstance(key, str) or not _sizes((size,)):
        raise PickleError("the pickle is damaged: a storage without name or size")
    storage = Storage(key, _DTYPES[storage_type.name], size)
    if machine.storages.setdefault(key, storage) != storage:
        raise PickleError(f"the pickle is damaged: two storages named {key!r}")
    machine.stack.append(storage)


def _reduce(machine: _Machine, argument: Any) -> None:  # noqa: ANN401
    del argument
    arguments, function = machine.pop(), machine.pop()
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise PickleError("refused a call of something that is no global")
    if function.name == _ORDERED_DICT:
        result: Any = collections.OrderedDict()
        pairs = arguments[0] if arguments else ()
        if not isinstance(pairs, list | tuple):
            raise PickleError("the pickle is damaged: a dict of no list")
        if not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            raise PickleError("the pickle is damaged: an item that is no pair")
        machine.items += len(pairs)
        _update(result, [part for pair in pairs for part in pair])
    elif function.name == _TENSOR:
        result = _tensor(*arguments[:4])
    elif function.name == _PARAMETER and isinstance(arguments[0], Tensor):
        result = arguments[0]
    else:
        raise PickleError(f"refused a call of {function.name}")
    machine.stack.append(result)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:  # noqa: ANN401
    """A tensor whose every element lies in its storage, none twice over."""
    if not isinstance(storage, Storage):
        raise PickleError("the pickle is damaged: a tensor without storage")
    if not (_sizes((offset,)) and _sizes(shape) and _sizes(strides)):
        raise PickleError("the pickle is damaged: a tensor whose shape is none")
    if len(shape) != len(strides):
        raise PickleError("the pickle is damaged: a tensor of two shapes")
    count = math.prod(shape)
    last = offset + sum(
        (size - 1) * stride for size, stride in zip(shape, strides, strict=True)
    )
    if count and (count > storage.size or last >= storage.size):
        raise PickleError(
            f"a tensor of shape {shape} does not fit its storage of "
            f"{storage.size} numbers"
        )
    if math.prod(size or 1 for size in shape) > _LARGEST // 32:
        raise PickleError(f"an empty tensor of shape {shape} is beyond any array")
    # A stride along which there is one element leads nowhere.
    steps = [
        stride if size > 1 else 0 for size, stride in zip(shape, strides, strict=True)
    ]
    return Tensor(storage, offset, shape, tuple(steps))


def _sizes(values: Any) -> bool:  # noqa: ANN401
    """Whether something is a tuple of a few sizes; looks at no more than that."""
    return (
        isinstance(values, tuple)
        and len(values) <= _AXES
        and all(type(size) is int and 0 <= size < _LARGEST for size in values)
    )


_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "MARK": _push_new(_Mark),
    "NONE": _push_constant(None),
    "NEWTRUE": _push_constant(True),
    "NEWFALSE": _push_constant(False),
    "EMPTY_TUPLE": _push_constant(()),
    "EMPTY_DICT": _push_new(dict),
    "EMPTY_LIST": _push_new(list),
    "TUPLE": _group_tuple,
    "TUPLE1": _push_tuple(1),
    "TUPLE2": _push_tuple(2),
    "TUPLE3": _push_tuple(3),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
    "BINPERSID": _persistent,
} | dict.fromkeys(
    (
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
    ),
    _push,
)
_INSTRUCTIONS |= dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _put)
_INSTRUCTIONS |= dict.fromkeys(("BINGET", "LONG_BINGET"), _get)
