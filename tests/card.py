"""A device that is not the processor, for machines that have none: it computes on the processor, but says `card`.

Its tensors refuse what those of a GPU refuse, to meet tensors of the processor, so code that forgets to move something
fails here as it would there. Under autocast its products are made in bf16, as a GPU's are. What it cannot show is a
GPU's speed, its kernels and its rounding: those are for the tests marked `gpu`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "card"
aten = torch.ops.aten
TAKES_INDICES = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)
WAITS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default)
PRODUCTS = ("linear", "matmul", "addmm", "mm", "bmm", "baddbmm")  # of those in bf16 under autocast

waiting_is_allowed = True


class CardTensor(Tensor):
    """Holds a tensor of the processor and says that it lies on the card."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "CardTensor":
        made: CardTensor = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device(NAME, 0), requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"on the card: {self.inner!r}"

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def tolist(self) -> Any:  # torch's own refuses subclasses
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Factories(TorchDispatchMode):
    """Makes new tensors on the card where that is asked."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, CardTensor)]
    to = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    goes_there = to.type == NAME if to else bool(there)
    if func is aten.copy_.default:
        goes_there = isinstance(args[0], CardTensor)
    elif func in TAKES_INDICES:  # indices may lie on the processor, but not those of a tensor that lies there itself
        goes_there = isinstance(args[0], CardTensor)
        assert goes_there or not there, f"{func}: indices on the card of a tensor on the processor"
        comes_along = len(args) < 3 or isinstance(args[2], CardTensor) or not args[2].dim()  # what is put there
        assert comes_along or not goes_there, f"{func} of what lies on the processor"
    elif there and func is not aten._to_copy.default:
        strange = [tuple(x.shape) for x in tensors if not isinstance(x, CardTensor) and x.dim()]
        assert not strange, f"{func} of tensors on the card and, of the shapes {strange}, on the processor"
    if there and (func in WAITS or (not goes_there and func in (aten._to_copy.default, aten.copy_.default))):
        assert waiting_is_allowed, f"{func} waits for the card"
    changed = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items() if k != "pin_memory"}
    inner_args, inner_kwargs = tree_map(lambda x: x.inner if isinstance(x, CardTensor) else x, (args, changed))
    known = {id(x.inner): x for x in there}

    def outer(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, CardTensor):
            return x
        return known[id(x)] if id(x) in known else CardTensor(x) if goes_there else x

    return tree_map(outer, func(*inner_args, **inner_kwargs))


class Backend:
    """What torch asks of `torch.card`."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _lazy_init(self) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None:
        pass

    def device_count(self) -> int:
        return 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _in_half(name: str) -> Any:
    packet = getattr(torch, name) if hasattr(torch, name) else getattr(torch.nn.functional, name)

    def run(*args: Any, **kwargs: Any) -> Any:
        half = tree_map(
            lambda x: x.bfloat16() if isinstance(x, Tensor) and x.is_floating_point() else x, (args, kwargs)
        )
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            return packet(*half[0], **half[1])

    return run


_libraries: list[Any] = []  # what is registered lives as long as these


def is_in_torch() -> bool:
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


def register() -> None:
    """Once a process, and for good."""
    if _libraries or not is_in_torch():
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    of_all, of_products = (torch.library.Library(name, "IMPL", "AutocastPrivateUse1") for name in ("_", "aten"))
    of_all.fallback(torch.library.fallthrough_kernel)
    for name in PRODUCTS:
        of_products.impl(name, _in_half(name))
    _libraries.extend((of_all, of_products))


@contextlib.contextmanager
def inserted() -> Iterator[str]:
    """Inside, the device `card` is there."""
    register()
    torch.__future__.set_swap_module_params_on_conversion(True)  # so that tied weights stay tied when they are moved
    torch._C._set_only_lift_cpu_tensors(True)  # so that `torch.tensor(…, device=…)` makes a copy that we see
    try:
        with Factories():
            yield NAME
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
        torch._C._set_only_lift_cpu_tensors(False)


@contextlib.contextmanager
def nobody_waits() -> Iterator[None]:
    """Inside, what makes the program wait for the card fails: it could not be recorded as a CUDA graph."""
    global waiting_is_allowed
    waiting_is_allowed = False
    try:
        yield
    finally:
        waiting_is_allowed = True
