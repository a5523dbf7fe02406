/*
The products of an unrolled layer with its weights for all steps at once, masks and noise in: what
ops/products.py does by the library. And the packing of weights.

Rows are steps and sequences, (t * N, columns); a mask (K, N, D) is for the sequence of a row and
for one of K equal parts of the weight's rows.
*/

#include "tiles.h"

#define DEPTH 128 /* rows whose products with a panel are summed while they are in the cache */

/* The number of units in a panel. */
long vrnn_width(void) { return WIDTH; }

/* weight (parts * units, depth) -> (parts, panels of units, depth, WIDTH). */
void vrnn_pack(const real *weight, real *out, long parts, long units, long depth, long threads) {
    const long panels = num_panels(units);
#pragma omp parallel for num_threads(threads) if (parts *units *depth > 100000)
    for (long p = 0; p < parts * panels; p++) {
        const long unit = p % panels * WIDTH, count = min_of(WIDTH, units - unit);
        const real *from = weight + (p / panels * units + unit) * depth;
        real *to = out + p * depth * WIDTH;
        for (long start = 0; start < depth; start += 16) /* a block that stays in the cache */
            for (long k = start; k < min_of(start + 16, depth); k++)
                for (long v = 0; v < WIDTH; v++)
                    to[k * WIDTH + v] = v < count ? from[v * depth + k] : 0;
    }
}

/* weight (parts * depth, units) -> (parts, panels of units, depth, WIDTH). */
void vrnn_pack_transposed(
    const real *weight, real *out, long parts, long units, long depth, long threads
) {
    const long panels = num_panels(units);
#pragma omp parallel for num_threads(threads) if (parts *units *depth > 100000)
    for (long p = 0; p < parts * panels; p++) {
        const long unit = p % panels * WIDTH;
        const int count = (int)min_of(WIDTH, units - unit);
        const real *from = weight + p / panels * depth * units + unit;
        for (long k = 0; k < depth; k++)
            *(vec *)(out + (p * depth + k) * WIDTH) = load(from + k * units, count);
    }
}

typedef struct {
    long rows, sequences, columns; /* of x, (rows, columns) */
    long width;                    /* of the gates, (rows, width) */
    long groups;                   /* masks of a sequence, 0 for none */
    long threads;
    const real *mask; /* (groups, sequences, columns) */
    const real *x;
    real *gates;
    const real *loc, *noise; /* packed; noise may be null */
    const real *bias;        /* (width,), or null */
    real *for_x;             /* gradient of x */
    real *for_loc;           /* (width, columns), and ... */
    real *for_noise;         /* ... likewise, or null */
} Product;

static void multiply_mask(const Product *q, long group, long first, long count, real *out) {
    for (long r = 0; r < count; r++) {
        const real *x = q->x + (first + r) * q->columns;
        const real *mask = q->mask + (group * q->sequences + (first + r) % q->sequences) * q->columns;
        for (long j = 0; j < q->columns; j++) out[r * q->columns + j] = x[j] * mask[j];
    }
}

/* gates = x W^T + bias, for some rows. */
static void fill(const Product *q, long first, int count, real *masked, real *sums) {
    const long groups = max_of(q->groups, 1), units = q->width / groups, depth = q->columns;
    const long panels = num_panels(units);
    const real *plain = q->x + first * depth;
    for (long m = 0; m < groups; m++) {
        if (q->groups) multiply_mask(q, m, first, count, masked);
        for (long panel = 0; panel < panels; panel += 2) {
            const int vectors = (int)min_of(2, panels - panel);
            const long at = (m * panels + panel) * depth * WIDTH;
            Part parts[2] = {{q->groups ? masked : plain, depth, q->loc + at, depth}};
            if (q->noise) parts[1] = (Part){plain, depth, q->noise + at, depth};
            times(count, vectors, parts, q->noise ? 2 : 1, sums);
            for (int v = 0; v < vectors; v++) {
                const long unit = (panel + v) * WIDTH, column = m * units + unit;
                const int size = (int)min_of(WIDTH, units - unit);
                const vec bias = q->bias ? load(q->bias + column, size) : (vec){0};
                for (int r = 0; r < count; r++)
                    store(
                        q->gates + (first + r) * q->width + column,
                        bias + *(const vec *)(sums + (2 * r + v) * WIDTH), size
                    );
            }
        }
    }
}

/* for_x = gates W, for some rows. */
static void input_grad(const Product *q, long first, int count, real *total, real *sums) {
    const long groups = max_of(q->groups, 1), depth = q->width / groups;
    const long panels = num_panels(q->columns);
    const real *gates = q->gates + first * q->width;
    for (long panel = 0; panel < panels; panel += 2) {
        const int vectors = (int)min_of(2, panels - panel);
        memset(total, 0, count * 2 * WIDTH * sizeof(real));
        if (q->noise) {
            Part part = {gates, q->width, q->noise + panel * q->width * WIDTH, q->width};
            times(count, vectors, &part, 1, total);
        }
        for (long m = 0; m < groups; m++) {
            const real *loc = q->loc + (m * panels + panel) * depth * WIDTH;
            Part part = {gates + m * depth, q->width, loc, depth};
            times(count, vectors, &part, 1, sums);
            for (int r = 0; r < count; r++)
                for (int v = 0; v < vectors; v++) {
                    const long unit = (panel + v) * WIDTH, place = (2 * r + v) * WIDTH;
                    const int size = (int)min_of(WIDTH, q->columns - unit);
                    vec term = *(const vec *)(sums + place);
                    if (q->groups) {
                        const long row = m * q->sequences + (first + r) % q->sequences;
                        term *= load(q->mask + row * q->columns + unit, size);
                    }
                    *(vec *)(total + place) += term;
                }
        }
        for (int r = 0; r < count; r++)
            for (int v = 0; v < vectors; v++) {
                const long unit = (panel + v) * WIDTH;
                store(
                    q->for_x + (first + r) * q->columns + unit,
                    *(const vec *)(total + (2 * r + v) * WIDTH),
                    (int)min_of(WIDTH, q->columns - unit)
                );
            }
    }
}

/* Two panels of (masked) x, for some rows: (2, count, WIDTH). */
static void take_panels(
    const Product *q, long group, int masked, long panel, int vectors, long first, long count,
    real *out
) {
    for (int v = 0; v < vectors; v++) {
        const long unit = (panel + v) * WIDTH;
        const int size = (int)min_of(WIDTH, q->columns - unit);
        for (long r = 0; r < count; r++) {
            vec x = load(q->x + (first + r) * q->columns + unit, size);
            if (masked) {
                const long row = group * q->sequences + (first + r) % q->sequences;
                x *= load(q->mask + row * q->columns + unit, size);
            }
            *(vec *)(out + (v * count + r) * WIDTH) = x;
        }
    }
}

/* out = gates^T x, two panels of columns of one group: a tile sums over DEPTH rows at a time. */
static void weight_grad(
    const Product *q, real *out, long groups, long group, int masked, long panel, real *panels,
    real *sums
) {
    const int vectors = (int)min_of(2, num_panels(q->columns) - panel);
    const long units = q->width / groups;
    for (long first = 0; first < q->rows; first += DEPTH) {
        const long count = min_of(DEPTH, q->rows - first);
        take_panels(q, group, masked, panel, vectors, first, count, panels);
        for (long top = 0; top < units; top += CHUNK) {
            const int size = (int)min_of(CHUNK, units - top);
            const real *gates = q->gates + first * q->width + group * units + top;
            Part part = {gates, q->width, panels, count};
            product(1, size, vectors, &part, 1, sums);
            for (int r = 0; r < size; r++)
                for (int v = 0; v < vectors; v++) {
                    const long unit = (panel + v) * WIDTH;
                    const int columns = (int)min_of(WIDTH, q->columns - unit);
                    real *place = out + (group * units + top + r) * q->columns + unit;
                    vec sum = *(const vec *)(sums + (2 * r + v) * WIDTH);
                    store(place, first ? sum + load(place, columns) : sum, columns);
                }
        }
    }
}

/* Rows are cut into chunks, weight gradients by panels of columns; threads take the next one. */
static int run_chunks(const Product *q, int gradient) {
    int failed = 0;
    const long chunks = (q->rows + CHUNK - 1) / CHUNK;
#pragma omp parallel num_threads(max_of(min_of(q->threads, chunks), 1))
    {
        real *work = memory(gradient ? CHUNK * 2 * WIDTH : CHUNK * q->columns);
        real *sums = memory(CHUNK * 2 * WIDTH);
        if (!work || !sums) __atomic_store_n(&failed, 1, __ATOMIC_RELEASE);
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (long c = 0; c < chunks; c++) {
            const long first = q->rows * c / chunks, next = q->rows * (c + 1) / chunks;
            if (!__atomic_load_n(&failed, __ATOMIC_ACQUIRE))
                (gradient ? input_grad : fill)(q, first, (int)(next - first), work, sums);
        }
        free(work);
        free(sums);
    }
    return failed;
}

int vrnn_fill(const Product *product) { return run_chunks(product, 0); }

int vrnn_input_grad(const Product *product) { return run_chunks(product, 1); }

int vrnn_weight_grad(const Product *q) {
    int failed = 0;
    const long groups = max_of(q->groups, 1), pairs = (num_panels(q->columns) + 1) / 2;
    const long of_loc = q->for_loc ? groups * pairs : 0, of_noise = q->for_noise ? pairs : 0;
#pragma omp parallel num_threads(max_of(min_of(q->threads, of_loc + of_noise), 1))
    {
        real *panels = memory(2 * DEPTH * WIDTH), *sums = memory(CHUNK * 2 * WIDTH);
        if (!panels || !sums) __atomic_store_n(&failed, 1, __ATOMIC_RELEASE);
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (long k = 0; k < of_loc + of_noise; k++) {
            if (__atomic_load_n(&failed, __ATOMIC_ACQUIRE)) continue;
            if (k < of_noise) /* the longest first */
                weight_grad(q, q->for_noise, 1, 0, 0, 2 * k, panels, sums);
            else {
                const long group = (k - of_noise) / pairs, pair = (k - of_noise) % pairs;
                weight_grad(
                    q, q->for_loc, groups, group, q->groups > 0, 2 * pair, panels, sums
                );
            }
        }
        free(panels);
        free(sums);
    }
    return failed;
}

long vrnn_product_size(void) { return sizeof(Product); }
