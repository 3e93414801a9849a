"""How a linear + cross-entropy is cut to keep to its memory, by a model of what each way costs.

Rows at a time: the logits of a few rows, whole; their gradient follows in place. Three products, but the gradient of
the weight, C·D numbers, is read and written once for each chunk, and for half inputs it would have to be accumulated
in a float32 copy.

Classes at a time: the logits of all rows for a tile of the classes; first the log-sum-exp over all tiles, then each
tile again and its gradient. The tiles that memory can hold are not made again. Up to four products; each tile's part
of the weight gradient is one product, finished at once. With no more rows than features no tile is made twice: the
gradient of a trained weight is memory that will be there anyway, and T classes of it, T·D numbers, hold the N·T logits
of a tile until their own gradient comes.

Both, where half inputs leave no room for the float32 sums that either needs: rows for values and the gradient of the
hidden states, then classes for that of the weight. Four products, and nothing is summed outside of one.

What is counted is every tensor that is made: logits, copies of rows that do not lie in one order, sums, and what is
known of each row. Not counted is scratch of a fixed size, inside a product and in the pieces of
linear_term_gradients.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from xent.backends.native.linear_products import PLATFORM, ROW_BLOCK, Products, block_bytes, edge_within
from xent.backends.native.top_classes import PIECE as TOP_PIECE
from xent.errors import BackendError

MIB = 1 << 20
DEFAULT_BYTES = 64 * MIB  # of extra memory, or a tenth of inputs and gradients where that is more
# Seconds per unit on the machine of benchmarks/results; only their ratio decides.
_SECONDS_PER_FLOP = 1 / 330e9
_SECONDS_PER_BYTE = 1 / 12e9
_SHARE_OF_BLOCKS = 4  # a quarter of the memory for the blocks that are widened
_ENTRY_BYTES = 128  # of an entry of a sparse target, in float64, while its class is sought
_ROW_BYTES = 160  # values of a row of a chunk, twice: those of the chunk before are still there
_TILE_ROW_BYTES = 288  # what is known of a row between tiles, in float64, and while a tile is merged into it
_STATE_BYTES = 112  # values of each loss, its upstream gradient, which rows count, and copies of what is handed out
_TOP_BYTES = 96  # of one of the best classes of a row: twice its logit and index, and the parts that are merged
_TOP_PIECE_BYTES = 24  # of a logit of the piece whose best classes are sought
_TILE_BYTES = 16 * MIB  # of a tile that need not be larger: it stays in the cache from its gradient to the products
_ROWS_FOR_HALF_SPEED = 12  # a product with so few rows (or columns) runs at half its speed


@dataclass(frozen=True)
class Size:
    """The numbers that a plan depends on.

    Attributes:
        rows: counted rows.
        features: D.
        classes: C·K, the width of the logits.
        item: bytes of an input number.
        half: whether gradients are accumulated in float32 beside the inputs' dtype.
        weight_gradient: whether the weight is trained: the memory of its gradient will be there.
        sliced: whether classes can be cut (not for K-dimensional logits).
        gathered: whether hidden states are copied together: rows in between are ignored, or do not lie in one order.
        entries: classes that each target names: k of a sparse one.
        widened: whether products of these half inputs are made in float32, a block at a time.
        ignored: hidden states beside the counted ones.
        per_hidden: K, losses for each hidden state.
        target_item: bytes of a number of a dense target whose rows are copied together, else 0.
        smoothed_item: bytes of a number of the dense target that smoothing makes for a tile of classes, else 0.
        top: how many of the best classes are asked for.
        fixed: bytes of vectors of classes, and of what products copy of the weight, whatever the cut.
    """

    rows: int
    features: int
    classes: int
    item: int
    half: bool
    weight_gradient: bool
    sliced: bool
    gathered: bool = False
    entries: int = 1
    widened: bool = False
    ignored: int = 0
    per_hidden: int = 1
    target_item: int = 0
    smoothed_item: int = 0
    top: int = 0
    fixed: int = 0

    @property
    def fits_its_gradient(self) -> bool:
        """Whether the logits of any classes fit where the gradient of the weight of as many classes will be."""
        return self.weight_gradient and self.sliced and self.rows <= self.features

    def num_products(self, with_gradient: bool) -> int:
        """Products that no cut avoids."""
        return 1 + with_gradient * (1 + self.weight_gradient)

    @property
    def product_seconds(self) -> float:
        """One product."""
        speed = 2 if self.half and not self.widened else (0.5 if self.item == 8 else 1)
        return 2 * self.rows * self.features * self.classes * _SECONDS_PER_FLOP / speed

    def default_bytes(self) -> int:
        """The bound when the caller gives none."""
        inputs = (self.rows + self.ignored + self.classes) * self.features * self.item
        return max(DEFAULT_BYTES, 2 * inputs // 10)


@dataclass(frozen=True)
class Plan:
    """One way to cut the work.

    Attributes:
        by: "rows", "classes" or "both".
        step: rows, or classes, at a time; rows of "both".
        kept_tiles: tiles of classes that are not made twice.
        in_gradient: whether these lie in the memory of the weight's gradient.
        extra_bytes: memory beyond inputs and gradients.
        seconds: what the model expects.
        tile: classes at a time of "both".
        products: how the matrix products are made.
    """

    by: str
    step: int
    kept_tiles: int
    extra_bytes: int
    seconds: float
    tile: int = 0
    products: Products = PLATFORM
    in_gradient: bool = False

    def __str__(self) -> str:
        again = f", {self.kept_tiles} tiles kept" if self.kept_tiles else ""
        again = ", kept in the memory of the weight's gradient" if self.in_gradient else again
        by = f"rows and {self.tile} classes" if self.by == "both" else self.by
        wide = ", products in float32" if self.products.edge else ""
        return f"{self.step} {by} at a time{again}{wide}, {self.extra_bytes / MIB:.1f} MiB beside inputs and gradients"


def plan(size: Size, max_memory: int | None, *, with_gradient: bool) -> Plan:
    """The fastest way that keeps to `max_memory`; when None, to the default, or to the least that any way takes.

    Raises:
        BackendError: no way keeps to a given `max_memory`.
    """
    if size.rows == 0:
        return Plan("rows", 1, 0, 0, 0.0)  # nothing to be made
    bound = size.default_bytes() if max_memory is None else max_memory
    while (found := _within(size, bound, with_gradient)) is None:
        if max_memory is not None:
            raise BackendError(
                f"max_memory={bound} bytes for logits of {size.rows} × {size.classes}",
                f"the smallest cut takes {least_bytes(size, with_gradient=with_gradient)} bytes",
                "raise max_memory",
            )
        bound += bound // 8
    return found


def least_bytes(size: Size, *, with_gradient: bool) -> int:
    """A bound that a plan keeps to, where one byte less is too little."""
    works = 1
    while _within(size, works, with_gradient) is None:
        works *= 2
    fails = works // 2
    while works - fails > 1:
        middle = (works + fails) // 2
        if _within(size, middle, with_gradient) is None:
            fails = middle
        else:
            works = middle
    return works


def _within(size: Size, bound: int, with_gradient: bool) -> Plan | None:
    edge = edge_within(bound // _SHARE_OF_BLOCKS) if size.widened else 0
    always = _state_bytes(size) + block_bytes(edge)
    found = _cut(size, bound - always, with_gradient)
    if found is None:
        return None
    return replace(found, extra_bytes=found.extra_bytes + always, products=Products(edge))


def _cut(size: Size, bound: int, with_gradient: bool) -> Plan | None:
    ways = [_by_rows(size, bound, with_gradient), _by_classes(size, bound, with_gradient)]
    possible = [way for way in ways if way is not None]
    if not possible and with_gradient and size.half:
        return _by_both(size, bound)
    return min(possible, key=lambda way: way.seconds, default=None)


def _state_bytes(size: Size) -> int:
    """What is held whatever the cut."""
    losses = (size.rows + size.ignored) * size.per_hidden
    piece = min(max(TOP_PIECE, size.classes), size.rows * size.classes) if size.top else 0
    return losses * (_STATE_BYTES + size.top * _TOP_BYTES) + piece * _TOP_PIECE_BYTES + size.fixed


def _row_bytes(size: Size) -> int:
    """What a row of a chunk takes: its logits, and copies, which the next chunk's meet before they go."""
    copies = 2 * (size.features * size.item * size.gathered + size.classes * size.target_item)
    return size.classes * size.item + copies + _ENTRY_BYTES * (size.entries - 1) + _ROW_BYTES * size.per_hidden


def _by_rows(size: Size, bound: int, with_gradient: bool) -> Plan | None:
    step = min(max(bound, 0) // _row_bytes(size), size.rows)
    accumulates = with_gradient and size.half and size.weight_gradient
    if step < size.rows and accumulates:  # more than one chunk needs the float32 copy, and a product's own output
        step = max(bound - size.classes * size.features * (4 + size.item), 0) // _row_bytes(size)
    if step < 1:
        return None
    chunks = -(-size.rows // step)
    step = max(min(_multiple(-(-size.rows // chunks), 16), step), 1)  # chunks of one size
    slow = 1 + _ROWS_FOR_HALF_SPEED / step
    copies = 2 * 4 * size.classes * size.features * (chunks - 1) if size.weight_gradient else 0
    seconds = size.num_products(with_gradient) * size.product_seconds * slow
    seconds += copies * _SECONDS_PER_BYTE if with_gradient else 0
    extra = step * _row_bytes(size)
    if chunks > 1 and accumulates:
        extra += size.classes * size.features * (4 + size.item)
    return Plan("rows", step, 0, extra, seconds)


def _by_classes(size: Size, bound: int, with_gradient: bool) -> Plan | None:
    if not size.sliced:
        return None
    fixed = _fixed_bytes(size)
    if with_gradient:
        fixed += size.features * _hidden_sum_bytes(size)
    column = _column_bytes(size)
    columns = (bound - fixed) // column
    if columns < min(64, size.classes):
        return None
    if with_gradient and size.fits_its_gradient:
        return _in_gradient(size, fixed, columns)
    step = min(max(columns // 4, min(columns, 1024)), size.classes)  # room to keep three tiles of four
    tiles = -(-size.classes // step)
    step = min(_multiple(-(-size.classes // tiles), 16), columns)
    tiles = -(-size.classes // step)
    kept = min(columns // step, tiles) - 1 if with_gradient else 0
    again = 1 - (kept + 1) / tiles
    products = size.num_products(with_gradient) + again * with_gradient
    slow = 1 + _ROWS_FOR_HALF_SPEED / step
    copies = 2 * 4 * size.rows * size.features * tiles if with_gradient else 0
    seconds = products * size.product_seconds * slow + copies * _SECONDS_PER_BYTE
    return Plan("classes", step, kept, fixed + (kept + 1) * step * column, seconds)


def _in_gradient(size: Size, fixed: int, columns: int) -> Plan:
    """By classes, all tiles but one in the memory of the weight's gradient."""
    column = _column_bytes(size)
    step = min(columns, max(_TILE_BYTES // column, 1024), size.classes)
    step -= step % 16 if step < size.classes else 0  # where a tile begins, a cache line does
    tiles = -(-size.classes // step)
    slow = 1 + _ROWS_FOR_HALF_SPEED / step
    copies = 2 * 4 * size.rows * size.features * tiles
    seconds = 3 * size.product_seconds * slow + copies * _SECONDS_PER_BYTE
    return Plan("classes", step, tiles - 1, fixed + step * column, seconds, in_gradient=tiles > 1)


def _by_both(size: Size, bound: int) -> Plan | None:
    if not size.sliced:
        return None
    step = min(max(bound, 0) // _row_bytes(size), size.rows)
    fixed, column = _fixed_bytes(size), _column_bytes(size)
    tile = min((bound - fixed) // column, size.classes)
    if step < 1 or tile < min(16, size.classes):
        return None
    slow = (2 + _ROWS_FOR_HALF_SPEED / step + _ROWS_FOR_HALF_SPEED / tile) / 2
    extra = max(step * _row_bytes(size), fixed + tile * column)
    return Plan("both", step, 0, extra, 4 * size.product_seconds * slow, tile)


def _fixed_bytes(size: Size) -> int:
    """What all rows of a tile of classes take beside its logits."""
    gathered = size.features * size.item * size.gathered
    return size.rows * (gathered + _TILE_ROW_BYTES + _ENTRY_BYTES * (size.entries - 1))


def _column_bytes(size: Size) -> int:
    """One class of a tile: logits, and copies of a dense target."""
    return size.rows * (size.item + size.target_item + size.smoothed_item)


def _hidden_sum_bytes(size: Size) -> int:
    """One feature of the gradient of the hidden states, beside that gradient itself."""
    if not size.half:
        return size.rows * size.item if size.ignored else 0  # of the counted rows alone
    product = 0 if size.widened else size.item * min(size.rows, ROW_BLOCK)
    return 4 * size.rows + max(product, size.item * size.rows if size.ignored else 0)


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of
