"""A stand-in for CuPy where there is no GPU: NumPy behind a wall, with the emulator for its kernels.

It lets tests walk every path of ours that leads to a GPU, and is as strict as CuPy where that matters: its arrays
refuse `np.asarray` and NumPy arrays as partners, NumPy's functions reach them by the same protocols, results are never
NumPy scalars, and a kernel that wants much shared memory has to ask for it. What it cannot show is that CuPy agrees.
"""

import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

from minifcn_kernels.cuda import device, launch
from minifcn_kernels.cuda.emulator import current_emulation, library


class Device:
    """The only GPU. Its limits are those of a small one, compute capability 7.5."""

    id = 0
    compute_capability = "75"

    def __init__(self, number=0):
        assert number == 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    @property
    def attributes(self):
        return {
            "MaxThreadsPerBlock": 1024,
            "MaxBlockDimX": 1024,
            "MaxBlockDimY": 1024,
            "MaxBlockDimZ": 64,
            "MaxGridDimX": 2**31 - 1,
            "MaxGridDimY": 65535,
            "MaxGridDimZ": 65535,
            "MaxSharedMemoryPerBlockOptin": 64 << 10,
        }


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the device; `host` is where its numbers really are."""

    device = Device()

    def __init__(self, host, base=None):
        self.host = host
        self.base = base

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return wrapped(getattr(ufunc, method)(*bare(inputs), **bare(options)), self)

    def __array_function__(self, function, types, arguments, options):
        return wrapped(function(*bare(arguments), **bare(options)), self)

    def __getattr__(self, name):
        value = getattr(self.host, name)
        if callable(value):
            return lambda *arguments, **options: wrapped(value(*bare(arguments), **bare(options)), self)
        return wrapped(value, self)

    def __getitem__(self, index):
        return wrapped(np.asarray(self.host[bare(index)]), self)

    def __setitem__(self, index, value):
        self.host[bare(index)] = bare(value)

    def __len__(self):
        return len(self.host)

    def __bool__(self):
        return bool(self.host)

    def __float__(self):
        return float(self.host)

    def __deepcopy__(self, memo):
        return ndarray(self.host.copy())

    @property
    def data(self):
        return SimpleNamespace(ptr=self.host.ctypes.data)

    def item(self):
        return self.host.item()

    def get(self):
        return self.host.copy()


def bare(value):
    """Look behind the wall; what is not on the device has no business there."""
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return type(value)(map(bare, value))
    if isinstance(value, dict):
        return {name: bare(part) for name, part in value.items()}
    return value


def wrapped(value, source):
    """Put a result behind the wall. One that ``source`` wrote to in place stays the array that it was."""
    if isinstance(value, tuple | list) and any(isinstance(part, np.ndarray) for part in value):
        return type(value)(wrapped(part, source) for part in value)
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        return value
    if value is source.host:
        return source
    is_view = value.base is not None and np.may_share_memory(value, source.host)
    return ndarray(value, (source if source.base is None else source.base) if is_view else None)


class RawModule:
    """A source compiled "on the device": its kernels run on the emulator."""

    def __init__(self, *, code, options, name_expressions):
        self.path = Path(re.match(r'#line 1 "(.*)"\n', code)[1])
        self.text = code.partition("\n")[2]

    def get_function(self, name):
        if "COMPILE ERROR" in self.text:
            raise CompileException(f"{self.path}(1): error: planted")
        return RawKernel(self.path, name, launch.CudaSource(self.path, [name]).parameters(name))


class RawKernel:
    max_threads_per_block = 512
    shared_size_bytes = 1 << 10
    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, path, name, declared):
        self.path, self.name, self.declared = path, name, declared

    def __call__(self, grid, block, arguments, *, shared_mem):
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        for parameter, argument in zip(self.declared, arguments, strict=True):
            assert argument.dtype == parameter.dtype
            assert isinstance(argument, ndarray) is parameter.pointer
        hosts = [a.host if isinstance(a, ndarray) else a for a in arguments]
        library.launch(self.path, self.name, self.declared, grid, block, hosts, shared_mem, current_emulation())


class ElementwiseKernel:
    """Reads the C++ as Python, which it is as long as it only adds, multiplies and assigns."""

    def __init__(self, inputs, outputs, operation, name):
        self.inputs, self.outputs = ([p.split()[1] for p in part.split(",")] for part in (inputs, outputs))
        self.operation = operation

    def __call__(self, *arguments):
        values = dict(zip(self.inputs + self.outputs, arguments, strict=True))
        assert len({value.dtype for value in values.values()}) == 1
        numbers = {name: value.host.copy() if isinstance(value, ndarray) else value for name, value in values.items()}
        exec(self.operation, {}, numbers)
        for name in self.outputs:
            values[name].host[...] = numbers[name]


class CompileException(Exception):
    pass


class CUDARuntimeError(RuntimeError):
    pass


def asarray(value, dtype=None):
    if isinstance(value, ndarray):
        return value if dtype in (None, value.dtype) else value.astype(dtype)
    return ndarray(np.array(value, dtype))


def contiguous(array, dtype=None):
    array = asarray(array, dtype)
    return array if array.flags.c_contiguous else ndarray(np.ascontiguousarray(array.host))


def fake_module():
    """Return a fresh module that is to be found as ``cupy``."""
    module = ModuleType("cupy")
    for make in (np.empty, np.zeros, np.ones, np.arange):
        setattr(module, make.__name__, lambda *sizes, make=make, **options: ndarray(make(*sizes, **options)))
    module.ndarray = ndarray
    module.asarray = asarray
    module.where = lambda *operands: ndarray(np.where(*bare(operands)))
    module.asnumpy = lambda array: array.get()
    module.ascontiguousarray = contiguous
    module.RawModule = RawModule
    module.ElementwiseKernel = ElementwiseKernel
    module.cuda = SimpleNamespace(
        Device=Device,
        compiler=SimpleNamespace(CompileException=CompileException),
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDevice=lambda: 0,
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda number: {"name": b"a fake GPU"},
        ),
    )
    return module


def forget():
    """Forget what was found out about a GPU and what was compiled for it."""
    from minifcn.training import sgd

    for known in (device.missing, device._gpu_limits, launch._gpu_function, sgd._update_on_gpu):
        known.cache_clear()
