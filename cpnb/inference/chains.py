"""Which layers of a model go together: those that `optimize_for_inference` may fuse, and why not.

A layer is taken only if its type and its weights tell all that it computes: no subclass, no forward
of its own, no hooks, no weights that are computed each time. Others stay as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from cpnb.inference.fused.chain import FUSED, Chain, foreign
from cpnb.inference.fused.module import FusedConv
from cpnb.layers.cp import CPConv2d
from cpnb.layers.factored import FactoredConv2d

Named = tuple[str, nn.Module]


@dataclass
class Found:
    """Names of the layers of each chain, and why other layers are in none."""

    chains: list[list[str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def own_parts(model: nn.Module) -> Iterator[Named]:
    """The named modules of a model, without those inside of layers that are fused already."""
    fused = [name for name, part in model.named_modules() if isinstance(part, FusedConv)]
    for name, part in model.named_modules():
        if not any(name == outer or not outer or name.startswith(f"{outer}.") for outer in fused):
            yield name, part


def find_chains(model: nn.Module, calls: dict, fuse: bool) -> Found:
    """Names of the layers that go together, chain by chain; one by one unless ``fuse``."""
    found, taken = Found(), set()
    for name, module in own_parts(model):
        if isinstance(module, CPConv2d) and name not in taken:
            # In no nn.Sequential, or the first of it would have taken it.
            taken.add(name)
            if _may(name, module, calls, found):
                found.chains.append([name])
        children = list(_flat(name, module)) if _in_turn(module, calls[name]) else []
        children = [child for child in children if child[0] not in taken]
        while children:
            length = _length(children, calls, fuse, found)
            taken.update(child for child, _ in children[: max(length, 1)])
            if length:
                found.chains.append([child for child, _ in children[:length]])
            children = children[max(length, 1) :]
    return found


def _in_turn(module: nn.Module, calls: list) -> bool:
    """Whether it is meant to run its parts one after the other."""
    if isinstance(module, FactoredConv2d):
        return bool(calls) and _runs_its_chain(module)
    return isinstance(module, nn.Sequential)


def _runs_its_chain(module: FactoredConv2d) -> bool:
    own = type(module).forward is not FactoredConv2d.forward or "forward" in vars(module)
    return bool(module.CHAIN) and not own and list(module.CHAIN) == list(module._modules)


def _flat(name: str, module: nn.Module) -> Iterator[Named]:
    """The layers in the order they run, those of plain parts that run theirs in turn, too."""
    for child, layer in module.named_children():
        path = f"{name}.{child}" if name else child
        rival = isinstance(layer, FactoredConv2d) and _runs_its_chain(layer)
        if (type(layer) is nn.Sequential or rival) and not _hooked(layer):
            yield from _flat(path, layer)
        else:
            yield path, layer


def _length(children: list[Named], calls: dict, fuse: bool, found: Found) -> int:
    """How many of these neighbours make a chain, from the first one on."""
    name, front = children[0]
    if not isinstance(front, (CPConv2d, nn.Conv2d)) or not _may(name, front, calls, found):
        return 0
    together = 1
    for (before, _), (after, layer) in zip(children, children[1:], strict=False):
        one, two = calls[before], calls[after]
        if not (fuse and len(one) == len(two) == 1 and _called_with_batches(two)):
            break
        if two[0][0][0] is not one[0][1]:
            break
        if not isinstance(layer, FUSED) or not _may(after, layer, calls, found):
            break
        together += 1
    return Chain([layer for _, layer in children[:together]]).length


def _may(name: str, layer: nn.Module, calls: dict, found: Found) -> bool:
    """Whether a layer may be fused; a remark says why not."""
    reason = "it has hooks" if _hooked(layer) else foreign(layer)
    if isinstance(layer, CPConv2d) and not calls[name]:
        reason = "the model does not call it on the example"
    if reason:
        remark = f"{name or type(layer).__name__} is left as it is: {reason}"
        found.remarks += [remark] if remark not in found.remarks else []
    return not reason and _called_with_batches(calls[name])


def _called_with_batches(calls: list) -> bool:
    alike = (len(x) == 1 and isinstance(x[0], Tensor) and x[0].ndim == 4 for x, _ in calls)
    return bool(calls) and all(alike)


def _hooked(module: nn.Module) -> bool:
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
