# cython: language_level=3
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Where memory is reached by an index that comes from outside, it is checked here; what the callers compute is not.
# Floating-point arithmetic is that of `plain`, operation by operation: the results must be the same to the last bit.
"""The kernels as loops, each one call without the interpreter lock.  `plain` says what they do."""

import numpy as np

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t
from libc.stdlib cimport calloc, free, malloc, realloc

ctypedef fused Value:
    uint8_t
    uint16_t
    float

ctypedef fused Real:
    float
    double

ctypedef fused Sum:
    float
    double

ctypedef fused Height:
    float
    double
    int64_t

ctypedef fused Id:
    int32_t
    int64_t

ctypedef Py_ssize_t Index

cdef enum:
    _BINS = 256
    _ROWS = 32  # whose highest neighbours are sought at a time: what is in hand stays in the processor's cache
    _FIRST_QUEUE = 1024


# Contrast-limited adaptive histogram equalization

def count(
    const Value[:, :] values,
    grey,
    const Index[::1] row_places,
    const Index[::1] row_regions,
    const Index[::1] column_places,
    const Index[::1] column_regions,
    int32_t[:, :, ::1] counts,
):
    cdef float low = grey[0], span = grey[1], scale = grey[2], offset = grey[3]
    cdef Index i, j, width = values.shape[1], columns = column_places.shape[0]
    cdef Line line
    cdef int32_t *row
    require_inside(row_places, values.shape[0], row_regions, counts.shape[0])
    require_inside(column_places, width, column_regions, counts.shape[1])
    require_bins(counts.shape[2])
    allocate(&line, width)
    with nogil:
        for i in range(row_places.shape[0]):
            read(values, row_places[i], line.values)
            to_bins(&line, width, low, span, scale, offset)
            row = &counts[row_regions[i], 0, 0]
            for j in range(columns):
                row[column_regions[j] * _BINS + line.bins[column_places[j]]] += 1
    release(&line)


def blend(
    const Value[:, :] values,
    grey,
    tuple rows,
    tuple columns,
    tuple row_weights,
    tuple column_weights,
    const float[:, :, ::1] tables,
):
    if row_weights[0].dtype == np.float32:
        return blended[Value, float](values, grey, rows, columns, row_weights, column_weights, tables)
    return blended[Value, double](values, grey, rows, columns, row_weights, column_weights, tables)


# The last argument only says in which precision: that of the weights.
cdef blended(
    const Value[:, :] values,
    grey,
    tuple rows,
    tuple columns,
    tuple row_weights,
    tuple column_weights,
    const float[:, :, ::1] tables,
    Real _=0,
):
    cdef float low = grey[0], span = grey[1], scale = grey[2], offset = grey[3]
    cdef const Index[::1] above = rows[0], below = rows[1], left = columns[0], right = columns[1]
    cdef const Real[::1] w_above = row_weights[0], w_below = row_weights[1]
    cdef const Real[::1] w_left = column_weights[0], w_right = column_weights[1]
    cdef Index y, x, one, other, height = values.shape[0], width = values.shape[1]
    cdef const float *upper
    cdef const float *lower
    cdef float sum_
    cdef float[:, ::1] out
    cdef Line line
    result = np.empty((height, width), np.float32)
    require_inside(above, tables.shape[0], below, tables.shape[0])
    require_inside(left, tables.shape[1], right, tables.shape[1])
    if height > min(above.shape[0], w_above.shape[0], w_below.shape[0]):
        raise ValueError("a weight for each row")
    if width > min(left.shape[0], w_left.shape[0], w_right.shape[0]):
        raise ValueError("a weight for each column")
    require_bins(tables.shape[2])
    out = result
    allocate(&line, width)
    with nogil:
        for y in range(height):
            read(values, y, line.values)
            to_bins(&line, width, low, span, scale, offset)
            upper, lower = &tables[above[y], 0, 0], &tables[below[y], 0, 0]
            for x in range(width):
                one, other = left[x] * _BINS + line.bins[x], right[x] * _BINS + line.bins[x]
                sum_ = <float>(upper[one] * (w_above[y] * w_left[x]))
                sum_ += <float>(upper[other] * (w_above[y] * w_right[x]))
                sum_ += <float>(lower[one] * (w_below[y] * w_left[x]))
                sum_ += <float>(lower[other] * (w_below[y] * w_right[x]))
                out[y, x] = <float><int32_t>sum_
    release(&line)
    return result


def levels(const int32_t[:, :, ::1] counts, int64_t limit, Index pixels, int64_t highest):
    cdef Index y, x
    cdef float[:, :, ::1] out
    require_bins(counts.shape[2])
    if limit < 1 or pixels < 1:
        raise ValueError("a limit and pixels of at least 1")
    tables = np.empty((counts.shape[0], counts.shape[1], _BINS), np.float32)
    out = tables
    with nogil:
        for y in range(counts.shape[0]):
            for x in range(counts.shape[1]):
                to_levels(&counts[y, x, 0], limit, highest / <double>pixels, highest, &out[y, x, 0])
    return tables


cdef void to_levels(
    const int32_t *counts, int64_t limit, double factor, int64_t highest, float *out
) noexcept nogil:
    cdef int64_t clipped[_BINS]
    cdef int64_t excess = 0, share, spread = 0, total = 0
    cdef double level
    cdef Index i
    for i in range(_BINS):
        excess += max(counts[i] - limit, 0)
        clipped[i] = min(counts[i], limit)
    share = excess // _BINS
    for i in range(_BINS):
        if clipped[i] < limit - share:
            clipped[i] += share
            excess -= share
    for i in range(_BINS):
        if limit - share <= clipped[i] < limit:
            spread += limit - clipped[i]
            clipped[i] = limit
    spread_out(clipped, excess - spread, limit)
    for i in range(_BINS):
        total += clipped[i]
        level = total * factor
        out[i] = <float><int64_t>(level if level < highest else highest)


cdef void spread_out(int64_t *counts, int64_t excess, int64_t limit) noexcept nogil:
    cdef int64_t below, given
    cdef Index i, step, first = 0
    while excess > 0:
        below, given = 0, 0
        for i in range(_BINS):
            below += counts[i] < limit
        if below == 0:  # which pixels of one region cannot bring about
            return
        step, i = max(below // excess, 1), first
        while i < _BINS:
            if counts[i] < limit:
                counts[i] += 1
                given += 1
            i += step
        excess -= given
        first = (first + 1) % _BINS


cdef struct Line:
    float *values
    int16_t *bins


cdef int allocate(Line *line, Index width) except -1:
    line.values = <float *>malloc(max(width, 1) * sizeof(float))
    line.bins = <int16_t *>malloc(max(width, 1) * sizeof(int16_t))
    if line.values is NULL or line.bins is NULL:
        release(line)
        raise MemoryError
    return 0


cdef void release(Line *line) noexcept:
    free(line.values)
    free(line.bins)


cdef inline void read(const Value[:, :] values, Index y, float *line) noexcept nogil:
    cdef Index x
    for x in range(values.shape[1]):
        line[x] = <float>values[y, x]


cdef inline void to_bins(Line *line, Index width, float low, float span, float scale, float offset) noexcept nogil:
    # Adding and taking away 1.5 * 2^23 rounds to the nearest whole number, halves to even, as rint(3) does.
    cdef float depth
    cdef int32_t bin_
    cdef Index x
    for x in range(width):
        depth = (line.values[x] - low) / span * 65535
        depth = (depth + <float>12582912) - <float>12582912
        # A caller whose lowest and highest value are wrong must not leave the tables, nor one with NaN.
        depth = depth if depth > 0 else 0
        bin_ = <int32_t>((depth if depth < 65535 else 65535) * scale + offset)
        line.bins[x] = <int16_t>(_BINS - 1 if bin_ > _BINS - 1 else bin_)


cdef int require_inside(
    const Index[::1] places, Index size, const Index[::1] others, Index count
) except -1:
    cdef Index i
    if places.shape[0] != others.shape[0]:
        raise ValueError("places of two lengths")
    for i in range(places.shape[0]):
        if not (0 <= places[i] < size and 0 <= others[i] < count):
            raise IndexError("a place outside the plane")
    return 0


cdef int require_bins(Index bins) except -1:
    if bins != _BINS:
        raise ValueError("a table has 256 bins")
    return 0


# Maxima

def candidates(const Real[:, ::1] values, double h, double allowance, Index half):
    cdef Real height = <Real>h, rounding = <Real>allowance, lowest, highest, value
    cdef Index rows = values.shape[0], columns = values.shape[1], y, x, first, many, count = 0
    cdef Index inner = columns - 2 * half
    cdef Real *block
    cdef Real *around
    cdef uint8_t[:, ::1] sure, likely
    cdef Index[::1] where
    found, marks = np.empty((rows, columns), bool), np.zeros((rows, columns), bool)
    if rows == 0 or columns == 0:
        return found, np.empty(0, np.intp)
    sure, likely = found.view(np.uint8), marks.view(np.uint8)
    block = <Real *>malloc((_ROWS + 2 * half) * columns * sizeof(Real))
    if block is NULL:
        raise MemoryError
    with nogil:
        extremes(values, height, rounding, block, &lowest, &highest)
        for y in range(rows):
            for x in range(columns):
                value = values[y, x]
                # From the others all of the map is within reach: one comparison is enough.
                sure[y, x] = (not value - lowest >= height) & (value - highest >= height)
        first = half
        while first < rows - half:
            many = min(_ROWS, rows - half - first)
            highest_around(values, height, rounding, first, many, half, block)
            for y in range(first, first + many):
                around = block + (y - first) * columns
                for x in range(inner):
                    value = values[y, x + half]
                    likely[y, x + half] = (value - lowest >= height) & (value - around[x] >= height)
                for x in range(half, columns - half):
                    count += likely[y, x]
            first += many
    free(block)
    places = np.empty(count, np.intp)
    where, count = places, 0
    with nogil:
        for y in range(half, rows - half):
            for x in range(half, columns - half):
                if likely[y, x]:
                    where[count] = y * columns + x
                    count += 1
    return found, places


cdef inline Real lowered(Real value, Real h, Real allowance) noexcept nogil:
    return (value - h) - (value if value >= 0 else -value) * allowance


cdef void extremes(
    const Real[:, ::1] values, Real h, Real allowance, Real *scratch, Real *lowest, Real *highest
) noexcept nogil:
    # Column by column first: each is a chain of comparisons of its own, so several are made at once.
    cdef Index y, x, columns = values.shape[1]
    cdef Real low
    for x in range(columns):
        scratch[x] = values[0, x]
    for y in range(1, values.shape[0]):
        for x in range(columns):
            scratch[x] = values[y, x] if values[y, x] < scratch[x] else scratch[x]
    lowest[0] = scratch[0]
    for x in range(columns):
        lowest[0] = scratch[x] if scratch[x] < lowest[0] else lowest[0]
    for x in range(columns):
        scratch[x] = lowered(values[0, x], h, allowance)
    for y in range(1, values.shape[0]):
        for x in range(columns):
            low = lowered(values[y, x], h, allowance)
            scratch[x] = low if low > scratch[x] else scratch[x]
    highest[0] = scratch[0]
    for x in range(columns):
        highest[0] = scratch[x] if scratch[x] > highest[0] else highest[0]


cdef void highest_around(
    const Real[:, ::1] values, Real h, Real allowance, Index first, Index count, Index half, Real *block
) noexcept nogil:
    # Leaves in the rows of `block` the highest lowered value of the square around each pixel of `count` rows from
    # `first` on, as far as squares lie inside.  Windows are doubled until they are as wide as wanted.
    cdef Index columns = values.shape[1], height = count + 2 * half, width = columns, y, x, reach, step
    cdef Real *line
    cdef const Real *other
    for y in range(height):
        line = block + y * columns
        for x in range(columns):
            line[x] = lowered(values[first - half + y, x], h, allowance)
    reach = 1
    while reach < 2 * half + 1:
        step = min(reach, 2 * half + 1 - reach)
        height -= step
        for y in range(height):
            line, other = block + y * columns, block + (y + step) * columns
            for x in range(columns):
                line[x] = other[x] if other[x] > line[x] else line[x]
        reach += step
    for y in range(count):
        line, reach, width = block + y * columns, 1, columns
        while reach < 2 * half + 1:
            step = min(reach, 2 * half + 1 - reach)
            width -= step
            for x in range(width):
                line[x] = line[x + step] if line[x + step] > line[x] else line[x]
            reach += step


def without_higher(const Real[::1] values, double h, double allowance, const Index[::1] places, const Index[::1] steps):
    cdef Real height = <Real>h, rounding = <Real>allowance, value
    cdef Index i, j, size = values.shape[0]
    cdef uint8_t[::1] kept
    mask = np.ones(places.shape[0], bool)
    require_reach(places, steps, size)
    kept = mask.view(np.uint8)
    with nogil:
        for i in range(places.shape[0]):
            value = values[places[i]]
            for j in range(steps.shape[0]):
                if not value - lowered(values[places[i] + steps[j]], height, rounding) >= height:
                    kept[i] = False
                    break
    return np.asarray(places)[mask]


def apart(
    const Real[::1] values,
    double h,
    double allowance,
    Index radius,
    const Index[::1] steps,
    const double[::1] distances,
    const Index[::1] ends,
    const Index[::1] starts,
):
    cdef Real height = <Real>h, rounding = <Real>allowance, peak, value
    cdef Index i, j, outer, place, size = values.shape[0], looked = 0
    cdef double end
    cdef bint higher
    cdef uint8_t[::1] alone
    mask = np.zeros(starts.shape[0], bool)
    require_reach(starts, steps, size)
    if distances.shape[0] != steps.shape[0] or (
        ends.shape[0] and (np.max(ends) > steps.shape[0] or ends[0] < 0 or (np.diff(ends) < 0).any())
    ):
        raise ValueError("rings of other lengths than their steps")
    alone = mask.view(np.uint8)
    with nogil:
        for i in range(starts.shape[0]):
            peak, end, j, higher = values[starts[i]], 0, 0, False
            for outer in range(1, ends.shape[0] + 1):
                looked += ends[outer - 1] - j
                for j in range(j, ends[outer - 1]):
                    value = values[starts[i] + steps[j]]
                    if peak - value < height and distances[j] > end:
                        end = distances[j]
                    higher |= peak - lowered(value, height, rounding) < height
                j = ends[outer - 1]
                if higher:
                    break
                if end + radius <= outer:
                    alone[i] = True
                    break
    return mask, looked


cdef int require_reach(const Index[::1] places, const Index[::1] steps, Index size) except -1:
    if places.shape[0] and steps.shape[0] and not (
        0 <= np.min(places) + np.min(steps) and np.max(places) + np.max(steps) < size
    ):
        raise IndexError("a step leads out of the map")
    return 0


# Filters

def correlate(const Real[:, :] values, const double[::1] weights):
    cdef Index rows = values.shape[0], columns = values.shape[1], radius = weights.shape[0] // 2, y, x, i
    cdef double *line
    cdef double *wide
    cdef const double *w
    cdef double weight
    cdef Real[:, ::1] out
    result = np.empty((rows, columns), np.float32 if Real is float else np.float64)
    if weights.shape[0] % 2 == 0:
        raise ValueError("weights without a centre")
    if rows == 0 or columns == 0:
        return result
    out, w = result, &weights[radius]
    wide = <double *>malloc((columns + 2 * radius) * sizeof(double))
    line = <double *>malloc(columns * sizeof(double))
    if wide is NULL or line is NULL:
        free(wide)
        free(line)
        raise MemoryError
    with nogil:
        for y in range(rows):
            for x in range(columns):
                line[x] = <double>values[y, x] * w[0]
            for i in range(-radius, 0):
                add_pair(values, mirrored(y + i, rows), mirrored(y - i, rows), w[i], line)
            for x in range(columns):
                wide[radius + x] = <Real>line[x]
            for i in range(1, radius + 1):
                wide[radius - i] = wide[radius + mirrored(-i, columns)]
                wide[radius + columns - 1 + i] = wide[radius + mirrored(columns - 1 + i, columns)]
            for x in range(columns):
                line[x] = wide[radius + x] * w[0]
            for i in range(-radius, 0):
                weight = w[i]
                for x in range(columns):
                    line[x] += (wide[radius + x + i] + wide[radius + x - i]) * weight
            for x in range(columns):
                out[y, x] = <Real>line[x]
    free(wide)
    free(line)
    return result


cdef inline void add_pair(
    const Real[:, :] values, Index one, Index other, double weight, double *line
) noexcept nogil:
    cdef Index x
    for x in range(values.shape[1]):
        line[x] += (<double>values[one, x] + <double>values[other, x]) * weight


cdef inline Index mirrored(Index place, Index size) noexcept nogil:
    place = (place if place >= 0 else -1 - place) % (2 * size)
    return place if place < size else 2 * size - 1 - place


# Tiles

def fade_in(
    const Real[:, ::1] tile,
    const double[::1] row_weights,
    const double[::1] column_weights,
    double[:, ::1] left,
    double[:, :] above,
    Real[:, :] out,
):
    cdef Index rows = tile.shape[0], columns = tile.shape[1], height = out.shape[0], width = out.shape[1], y, x
    cdef Index down = above.shape[0], across = left.shape[1]
    cdef const double *w = &column_weights[0]
    cdef const double *sums
    cdef double *nothing
    cdef bint alone = True
    if row_weights.shape[0] != rows or column_weights.shape[0] != columns:
        raise ValueError("a weight for each row and column")
    if left.shape[0] != rows or above.shape[1] != columns:
        raise ValueError("sums for each row and column")
    if not (max(down, rows - down) <= height <= rows and max(across, columns - across) <= width <= columns):
        raise ValueError("what is not done must be what is overlapped")
    if above.strides[1] != sizeof(double) or out.strides[1] != sizeof(Real):
        raise ValueError("pixels of a row that do not follow each other")
    nothing = <double *>calloc(max(columns, 1), sizeof(double))
    if nothing is NULL:
        raise MemoryError
    with nogil:
        for x in range(across, width):
            alone &= w[x] == 1
        for y in range(rows):
            sums = &above[y, 0] if y < down else nothing
            if y >= height:
                weigh(&tile[y, 0], row_weights[y], w, &left[y, 0], 0, across, &above[y - height, 0])
                weigh(&tile[y, 0], row_weights[y], w, sums, across, width, &above[y - height, 0])
            else:
                weigh(&tile[y, 0], row_weights[y], w, &left[y, 0], 0, across, &out[y, 0])
                if alone and y >= down and row_weights[y] == 1:
                    for x in range(across, width):
                        out[y, x] = tile[y, x] + 0
                else:
                    weigh(&tile[y, 0], row_weights[y], w, sums, across, width, &out[y, 0])
            weigh(&tile[y, width], row_weights[y], w + width, sums + width, 0, columns - width, &left[y, 0])
    free(nothing)


cdef inline void weigh(
    const Real *values,
    double weight,
    const double *weights,
    const double *sums,
    Index start,
    Index stop,
    Sum *out,
) noexcept nogil:
    cdef Index x
    for x in range(start, stop):
        out[x] = <Sum>(sums[x] + <double>values[x] * weight * weights[x])


# Labels

def sizes(const Id[:, :] labels, Index least=1, const int32_t[:, :] others=None):
    cdef Index y, x
    cdef Id highest = 0, lowest = 0
    cdef bint everywhere = others is None
    cdef int64_t[::1] counts
    if not everywhere and (others.shape[0] != labels.shape[0] or others.shape[1] != labels.shape[1]):
        raise ValueError("images of different sizes")
    cdef Index step = labels.strides[1] // <Index>sizeof(Id), width = labels.shape[1]
    cdef const Id *row
    with nogil:
        for y in range(labels.shape[0] if width else 0):
            row = &labels[y, 0]
            if step == 1:  # said, for then several are compared at once
                for x in range(width):
                    highest = row[x] if row[x] > highest else highest
                    lowest = row[x] if row[x] < lowest else lowest
            else:
                for x in range(width):
                    highest = row[x * step] if row[x * step] > highest else highest
                    lowest = row[x * step] if row[x * step] < lowest else lowest
    if lowest < 0:
        raise ValueError("a label is negative")
    result = np.zeros(max(<Index>highest + 1, least), np.int64)
    counts = result
    with nogil:
        for y in range(labels.shape[0] if width else 0):
            row = &labels[y, 0]
            if everywhere:
                for x in range(width):
                    counts[row[x * step]] += 1
            else:
                for x in range(width):
                    counts[row[x * step]] += others[y, x] != 0
    return result


def look_up(const int32_t[::1] table, const Id[::1] labels, int32_t[::1] out):
    cdef Index i, size = table.shape[0]
    cdef bint inside = True
    if out.shape[0] != labels.shape[0]:
        raise ValueError("the result has another size than the labels")
    with nogil:
        for i in range(labels.shape[0]):
            if not 0 <= labels[i] < size:
                inside = False
                break
            out[i] = table[labels[i]]
    require_entries(inside)


def touch(const Index[::1] places, const Index[::1] steps):
    cdef Index i, j, k, place, size = places.shape[0]
    cdef bint found = False
    with nogil:
        for k in range(steps.shape[0]):
            j = 0
            for i in range(size):
                place = places[i] + steps[k]
                while j < size and places[j] < place:
                    j += 1
                if j < size and places[j] == place:
                    found = True
    return found


def places_of(chosen, const int32_t[:, :] labels):
    cdef Index y, x, size = 0
    cdef int32_t label
    cdef bint inside = True
    cdef const uint8_t[::1] wanted = chosen.view(np.uint8)
    cdef Index[::1] places
    # Their number is not known before: two walks take less than room for all.
    with nogil:
        for y in range(labels.shape[0]):
            for x in range(labels.shape[1]):
                label = labels[y, x]
                if not 0 <= label < wanted.shape[0]:
                    inside = False
                    break
                size += wanted[label]
    require_entries(inside)
    found = np.empty(size, np.intp)
    places = found
    size = 0
    with nogil:
        for y in range(labels.shape[0]):
            for x in range(labels.shape[1]):
                if wanted[labels[y, x]]:
                    places[size] = y * labels.shape[1] + x
                    size += 1
    return found


def paste(const int32_t[::1] table, const int32_t[:, :] labels, int32_t[:, :] out):
    cdef Index y, x
    cdef int32_t label
    cdef bint inside = True
    if labels.shape[0] != out.shape[0] or labels.shape[1] != out.shape[1]:
        raise ValueError("images of different sizes")
    with nogil:
        for y in range(labels.shape[0]):
            for x in range(labels.shape[1]):
                label = labels[y, x]
                if not 0 <= label < table.shape[0]:
                    inside = False
                    break
                if out[y, x] == 0:
                    out[y, x] = table[label]
    require_entries(inside)


cdef int require_entries(bint inside) except -1:
    if not inside:
        raise IndexError("a label has no entry in the table")
    return 0


# Watershed

cdef struct Pixel:
    double level
    int32_t age
    int32_t y
    int32_t x


cdef struct Queue:
    Pixel *pixels
    Index size
    Index room


def flood(
    const Height[:, :] heights,
    const int32_t[:, ::1] pieces,
    const Index[::1] seeds,
    int32_t[:, ::1] basins,
):
    # A pixel is given to a basin when it enters the queue, and leaves it by its level, then by its age.  Neighbours
    # enter in the order above, left, right, below.
    cdef Index i, first, columns = heights.shape[1], rows = heights.shape[0], y, x
    cdef int32_t piece, age
    cdef Queue queue
    cdef bint room = True, known = True
    if not (rows == pieces.shape[0] == basins.shape[0] and columns == pieces.shape[1] == basins.shape[1]):
        raise ValueError("arrays of different shapes")
    if seeds.shape[0] and not (0 <= np.min(seeds) and np.max(seeds) < rows * columns):
        raise IndexError("a seed outside the image")
    queue.size, queue.room = 0, _FIRST_QUEUE
    queue.pixels = <Pixel *>malloc(queue.room * sizeof(Pixel))
    if queue.pixels is NULL:
        raise MemoryError
    with nogil:
        first = 0
        while first < seeds.shape[0] and room:
            piece = pieces[seeds[first] // columns, seeds[first] % columns]
            age, i = 0, first
            while i < seeds.shape[0] and room:
                y, x = seeds[i] // columns, seeds[i] % columns
                if pieces[y, x] != piece:
                    break
                known &= basins[y, x] != 0
                room = push(&queue, -<double>heights[y, x], age, y, x)
                age, i = age + 1, i + 1
            first = i
            if not known:  # what has no basin cannot give it on, and would be asked again and again
                break
            room = room and flood_piece(heights, pieces, piece, age, &queue, basins)
    free(queue.pixels)
    if not room:
        raise MemoryError
    if not known:
        raise ValueError("a seed has no basin")


cdef bint flood_piece(
    const Height[:, :] heights,
    const int32_t[:, ::1] pieces,
    int32_t piece,
    int32_t age,
    Queue *queue,
    int32_t[:, ::1] basins,
) noexcept nogil:
    cdef Pixel pixel
    cdef Index step, y, x
    cdef double level
    while queue.size:
        pixel = pop(queue)
        for step in range(4):
            y = pixel.y + (step == 3) - (step == 0)
            x = pixel.x + (step == 2) - (step == 1)
            if not (0 <= y < pieces.shape[0] and 0 <= x < pieces.shape[1]):
                continue
            if pieces[y, x] != piece or basins[y, x]:
                continue
            basins[y, x] = basins[pixel.y, pixel.x]
            level = max(-<double>heights[y, x], pixel.level)
            if not push(queue, level, age, y, x):
                return False
            age += 1
    return True


cdef inline bint before(Pixel *one, Pixel *other) noexcept nogil:
    return one.level < other.level or (one.level == other.level and one.age < other.age)


cdef inline bint push(Queue *queue, double level, int32_t age, Index y, Index x) noexcept nogil:
    cdef Pixel pixel
    cdef Pixel *grown
    cdef Index place, parent
    if queue.size == queue.room:
        grown = <Pixel *>realloc(queue.pixels, 2 * queue.room * sizeof(Pixel))
        if grown is NULL:
            return False
        queue.pixels, queue.room = grown, 2 * queue.room
    pixel.level, pixel.age, pixel.y, pixel.x = level, age, <int32_t>y, <int32_t>x
    place = queue.size
    queue.size += 1
    while place:
        parent = (place - 1) // 2
        if not before(&pixel, &queue.pixels[parent]):
            break
        queue.pixels[place] = queue.pixels[parent]
        place = parent
    queue.pixels[place] = pixel
    return True


cdef inline Pixel pop(Queue *queue) noexcept nogil:
    cdef Pixel top = queue.pixels[0], last
    cdef Index place = 0, child
    queue.size -= 1
    last = queue.pixels[queue.size]
    while True:
        child = 2 * place + 1
        if child >= queue.size:
            break
        if child + 1 < queue.size and before(&queue.pixels[child + 1], &queue.pixels[child]):
            child += 1
        if not before(&queue.pixels[child], &last):
            break
        queue.pixels[place] = queue.pixels[child]
        place = child
    queue.pixels[place] = last
    return top
