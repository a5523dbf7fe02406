/*
The products of an unrolled layer with its weights for all steps at once, masks and noise in: what
ops/products.py does by the library. And the packing of weights.

Rows are steps and sequences, (t * N, columns); a mask (K, N, D) is for the sequence of a row and
for one of K equal parts of the weight's rows.
*/

#include "tiles.h"

#define CACHED (1 << 20) /* bytes of gradients that stay in a second-level cache, or nearly */
#define DEPTH 256        /* rows whose products with a panel are summed while they are in the cache */

/* The number of units in a panel. */
long vrnn_width(void) { return WIDTH; }

/*
weight (parts * units, depth), or with `columns` (parts * depth, units)
-> (parts, panels of units, depth, WIDTH).
*/
void vrnn_pack(
    long columns, const real *weight, real *out, long parts, long units, long depth, long threads
) {
    const long panels = num_panels(units);
#pragma omp parallel for num_threads(threads) if (parts * units * depth > 100000)
    for (long k = 0; k < parts * panels; k++) {
        const long part = k / panels, panel = k % panels;
        pack(
            columns, weight + part * units * depth, out + part * panels * depth * WIDTH, panel,
            panel + 1, units, depth
        );
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
    const real *loc, *noise; /* (width, columns); noise may be null */
    real *for_x;             /* gradient of x */
    real *for_loc;           /* (width, columns), and ... */
    real *for_noise;         /* ... likewise, or null */
    long particles, next_x, next_gates, next_loc, next_for_x; /* from one particle to the next */
} Product;

/* The mask of a group for the sequence of a row. */
static const real *mask_of(const Product *q, long group, long row) {
    return q->mask + (group * q->sequences + row % q->sequences) * q->columns;
}

/*
for_x = gates W, two panels of its columns, for some rows. Panels of the weights are laid out here,
(rows of the weight, WIDTH), and serve these rows: all of them at once would be another copy.
*/
static void input_grad(
    const Product *q, long panel, long first, long count, real *panels, real *sums
) {
    const int vectors = (int)min_of(2, num_panels(q->columns) - panel);
    const long groups = max_of(q->groups, 1), depth = q->width / groups;
    const long of_noise = 2 * q->width * WIDTH, of_group = 2 * depth * WIDTH;
    for (int v = 0; v < vectors; v++) {
        for (long m = 0; m < groups; m++)
            pack_columns(
                q->loc + m * depth * q->columns, panels + m * of_group + v * depth * WIDTH,
                panel + v, q->columns, depth
            );
        if (q->noise)
            pack_columns(
                q->noise, panels + of_noise + v * q->width * WIDTH, panel + v, q->columns, q->width
            );
    }
    real *total = sums + CHUNK * 2 * WIDTH;
    const long chunks = (count + CHUNK - 1) / CHUNK;
    for (long chunk = 0; chunk < chunks; chunk++) {
        const long row = first + cut(count, chunks, chunk);
        const int size = (int)(first + cut(count, chunks, chunk + 1) - row);
        const real *gates = q->gates + row * q->width;
        memset(total, 0, size * 2 * WIDTH * sizeof(real));
        if (q->noise) {
            Part part = {gates, q->width, panels + of_noise, q->width};
            times(size, vectors, &part, 1, total);
        }
        for (long m = 0; m < groups; m++) {
            Part part = {gates + m * depth, q->width, panels + m * of_group, depth};
            times(size, vectors, &part, 1, sums);
            for (int r = 0; r < size; r++)
                for (int v = 0; v < vectors; v++) {
                    const long unit = (panel + v) * WIDTH, place = (2 * r + v) * WIDTH;
                    vec term = *(const vec *)(sums + place);
                    if (q->groups)
                        term *= load(
                            mask_of(q, m, row + r) + unit, (int)min_of(WIDTH, q->columns - unit)
                        );
                    *(vec *)(total + place) += term;
                }
        }
        for (int r = 0; r < size; r++)
            for (int v = 0; v < vectors; v++) {
                const long unit = (panel + v) * WIDTH;
                store(
                    q->for_x + (row + r) * q->columns + unit,
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
            if (masked) x *= load(mask_of(q, group, first + r) + unit, size);
            *(vec *)(out + (v * count + r) * WIDTH) = x;
        }
    }
}

/* out = gates^T x, two panels of columns of one group, summed over DEPTH rows from `first` on. */
static void weight_grad(
    const Product *q, real *out, long groups, long group, int masked, long panel, long first,
    real *panels, real *sums
) {
    const int vectors = (int)min_of(2, num_panels(q->columns) - panel);
    const long units = q->width / groups, count = min_of(DEPTH, q->rows - first);
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

static Product particle_of(const Product *q, long s) {
    Product one = *q;
    one.x += s * q->next_x;
    one.gates += s * q->next_gates;
    one.loc += s * q->next_loc;
    one.for_x += q->for_x ? s * q->next_for_x : 0;
    one.for_loc += q->for_loc ? s * q->next_loc : 0;
    return one;
}

enum { INPUT_GRAD, WEIGHT_GRAD };

/*
Pairs of panels of the input's gradient for some rows; pairs of panels of the gradients of noise,
whose products are longest, and loc. The latter come in stages, sums over some rows each.
*/
static long num_tasks(const Product *q, int what) {
    const long pairs = (num_panels(q->columns) + 1) / 2;
    if (what == INPUT_GRAD) return pairs * ((q->rows + DEPTH - 1) / DEPTH);
    return pairs * ((q->for_noise != NULL) + max_of(q->groups, 1));
}

static long num_stages(const Product *q, int what) {
    return what == INPUT_GRAD ? 1 : (q->rows + DEPTH - 1) / DEPTH;
}

static void run_task(const Product *q, int what, long stage, long k, real *work, real *sums) {
    const long pairs = (num_panels(q->columns) + 1) / 2, panel = 2 * (k % pairs);
    if (what == INPUT_GRAD) {
        const long parts = num_tasks(q, what) / pairs, first = cut(q->rows, parts, k / pairs);
        input_grad(q, panel, first, cut(q->rows, parts, k / pairs + 1) - first, work, sums);
        return;
    }
    const long of_noise = q->for_noise ? pairs : 0, group = (k - of_noise) / pairs;
    const long groups = max_of(q->groups, 1), first = stage * DEPTH;
    if (k < of_noise)
        weight_grad(q, q->for_noise, 1, 0, 0, panel, first, work, sums);
    else
        weight_grad(q, q->for_loc, groups, group, q->groups > 0, panel, first, work, sums);
}

/* Numbers that a task works with, beside its sums. */
static long work_size(const Product *q, int what) {
    if (what == INPUT_GRAD) return (q->noise ? 4 : 2) * q->width * WIDTH;
    return DEPTH * 2 * WIDTH;
}

/*
Threads take tasks, or particles with all of their tasks. Where the gradients stay in the cache, all
tasks take the same stage, whose rows they find there; else each takes all of its stages at once.
*/
static int run_product(const Product *q, int what) {
    int failed = 0;
    const long stages = num_stages(q, what), tasks = num_tasks(q, what);
    const long threads = min_of(q->threads, q->particles ? q->particles : tasks);
    const long numbers = q->width * q->columns * (q->for_noise ? 2 : 1);
    const int together = numbers * (long)sizeof(real) <= CACHED;
    const long outer = together ? stages : 1, inner = together ? 1 : stages;
#pragma omp parallel num_threads(max_of(threads, 1))
    {
        real *work = memory(work_size(q, what)), *sums = memory(2 * CHUNK * 2 * WIDTH);
        if (!work || !sums) __atomic_store_n(&failed, 1, __ATOMIC_RELEASE);
#pragma omp barrier
        const int go_on = !__atomic_load_n(&failed, __ATOMIC_ACQUIRE);
        if (go_on && !q->particles)
            for (long i = 0; i < outer; i++)
#pragma omp for schedule(static, 1) nowait
                for (long k = 0; k < tasks; k++)
                    for (long j = 0; j < inner; j++) run_task(q, what, i + j, k, work, sums);
        if (go_on && q->particles)
#pragma omp for schedule(dynamic)
            for (long s = 0; s < q->particles; s++) {
                Product one = particle_of(q, s);
                for (long i = 0; i < outer; i++)
                    for (long k = 0; k < tasks; k++)
                        for (long j = 0; j < inner; j++)
                            run_task(&one, what, i + j, k, work, sums);
            }
        free(work);
        free(sums);
    }
    return failed;
}

int vrnn_input_grad(const Product *product) { return run_product(product, INPUT_GRAD); }

int vrnn_weight_grad(const Product *product) { return run_product(product, WEIGHT_GRAD); }

void vrnn_large_pages(void *memory, long bytes) { ask_for_large_pages(memory, bytes); }

long vrnn_product_size(void) { return sizeof(Product); }
