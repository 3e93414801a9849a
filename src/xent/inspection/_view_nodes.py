"""What each view, copy and indexing operation of torch does to places: name of the node → View of its operand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xent.inspection._expressions import Expression, Index, View, aligned, ravel, unravel
from xent.inspection._nodes import Edge, Unreadable, kind_of, signed

_SAME_ORDER = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Unflatten")
_PICKING = ("Select", "Unbind", "Gather", "IndexSelect", "MaskedSelect", "Diagonal", "Index")
_SAME_PLACE = ("Clone", "Alias", "ToCopy", "Contiguous", "Lift", "LiftFresh")


def view_of(edge: Edge, base: Expression) -> View | None:
    """The edge as a view of its operand; None if it is none."""
    kind = kind_of(edge)
    if kind in _SAME_PLACE or (kind == "Permute" and list(edge.saved("dims")) == list(range(len(base.shape)))):
        narrower = torch.finfo(edge.dtype).eps > 2**-52 if edge.dtype.is_floating_point else False
        return View(base, edge.shape, lambda index: index, edge.dtype if narrower else None, same_places=True)
    if kind in _SAME_ORDER:
        shape = edge.shape
        return View(base, shape, lambda index: unravel(ravel(index, shape), base.shape))
    maker = _MAKERS.get(kind)
    return None if maker is None else View(base, edge.shape, maker(edge, base), picks=kind in _PICKING)


def _dim(edge: Edge, name: str, base: Expression) -> int:
    return signed(edge.saved(name)) % max(len(base.shape), 1)


def _permute(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    dims = [signed(dim) % len(base.shape) for dim in edge.saved("dims")]
    return lambda index: tuple(index[dims.index(dim)] for dim in range(len(dims)))


def _transpose(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    one, other = (0, 1) if edge.name.startswith("TBackward") else (_dim(edge, "dim0", base), _dim(edge, "dim1", base))

    def swap(index: Index) -> Index:
        parts = list(index)
        if len(parts) > 1:
            parts[one], parts[other] = parts[other], parts[one]
        return tuple(parts)

    return swap


def _select(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    dim = _dim(edge, "dim", base)
    place = torch.tensor(signed(edge.saved("index")) % base.shape[dim])
    return lambda index: (*index[:dim], place, *index[dim:])


def _unbind(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    dim, place = _dim(edge, "dim", base), torch.tensor(edge.output)
    return lambda index: (*index[:dim], place, *index[dim:])


def _slice(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    dim = _dim(edge, "dim", base)
    start, step = signed(edge.saved("start") or 0), edge.saved("step")
    start = min(max(start + base.shape[dim] if start < 0 else start, 0), base.shape[dim])
    return lambda index: (*index[:dim], index[dim] * step + start, *index[dim + 1 :])


def _split(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    dim, size = _dim(edge, "dim", base), edge.saved("split_size")
    return lambda index: (*index[:dim], index[dim] + edge.output * size, *index[dim + 1 :])


def _gather(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    dim, chosen = _dim(edge, "dim", base), edge.saved("index").cpu()
    return lambda index: (*index[:dim], chosen[index], *index[dim + 1 :])


def _index_select(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    dim, chosen = _dim(edge, "dim", base), edge.saved("index").cpu()
    return lambda index: (*index[:dim], chosen[index[dim]], *index[dim + 1 :])


def _masked_select(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    places = edge.saved("mask").cpu().expand(base.shape).nonzero(as_tuple=True)
    return lambda index: tuple(part[index[0]] for part in places)


def _diagonal(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    one, other, offset = _dim(edge, "dim1", base), _dim(edge, "dim2", base), signed(edge.saved("offset"))

    def along(index: Index) -> Index:
        rest, place = list(index[:-1]), index[-1]
        for dim, shift in sorted(((one, max(-offset, 0)), (other, max(offset, 0)))):
            rest.insert(dim, place + shift)
        return tuple(rest)

    return along


def _expand(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    return lambda index: aligned(index, base.shape)


def _flip(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    dims = {signed(dim) % len(base.shape) for dim in edge.saved("dims")}
    return lambda index: tuple(base.shape[dim] - 1 - part if dim in dims else part for dim, part in enumerate(index))


def _index(edge: Edge, base: Expression) -> Callable[[Index], Index]:
    """Torch's (numpy's) rule: the shape of index tensors stands in their place if they are adjacent, else in front."""
    given = _as_numbers(edge, base)
    where = [dim for dim, part in enumerate(given) if part is not None]
    chosen = torch.broadcast_tensors(*(part for part in given if part is not None))
    rank = chosen[0].ndim
    adjacent = where == list(range(where[0], where[0] + len(where)))
    first = where[0] if adjacent else 0

    def places(index: Index) -> Index:
        inside, outside = index[first : first + rank], iter((*index[:first], *index[first + rank :]))
        found = iter(chosen)
        return tuple(
            next(outside) if part is None else next(found)[inside] % base.shape[dim] for dim, part in enumerate(given)
        )

    return places


def _as_numbers(edge: Edge, base: Expression) -> list[Tensor | None]:
    """One entry for each dimension of the base; masks as the numbers of the places that they keep."""
    given: list[Tensor | None] = []
    for part in edge.saved("indices"):
        if part is not None and part.dtype in (torch.bool, torch.uint8):
            given.extend(part.cpu().nonzero(as_tuple=True))
        else:
            given.append(None if part is None else part.cpu())
    given += [None] * (len(base.shape) - len(given))
    if all(part is None for part in given):
        raise Unreadable(edge, "an index without numbers")
    return given


_MAKERS: dict[str, Callable[[Edge, Expression], Callable[[Index], Index]]] = {
    "Permute": _permute,
    "Transpose": _transpose,
    "T": _transpose,
    "Select": _select,
    "Unbind": _unbind,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "IndexSelect": _index_select,
    "MaskedSelect": _masked_select,
    "Diagonal": _diagonal,
    "Expand": _expand,
    "Flip": _flip,
    "Index": _index,
}
