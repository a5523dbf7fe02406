/*
The steps of one recurrent layer, forward and backward: what ops/cell_kernels.py does call by call,
in one loop. Weights come packed in panels of one vector's width. Threads split the sequences, and
where there are more threads than sequences to feed them, the hidden units, with one barrier a step.

Built with products.c by ops/compiler.py, once for float and once with -DDOUBLE, for the machine it
runs on.
*/

#ifdef _OPENMP
#include <omp.h>
#endif
#include <sched.h>

#include "cells.h"

/* Bounds found by trying on two cores of a processor with 1 MiB of second-level cache each. */
#define ALONE 200000         /* multiply-adds that are not worth a second thread */
#define BARRIER 200000       /* multiply-adds of a step, by thread, that are worth a barrier */
#define LARGE (1 << 20)      /* bytes of weights that a thread had better have a part of */
#define VERY_LARGE (8 << 20) /* bytes that do not stay in the cache if each step loads them */
#define MOST_CHUNKS 16       /* of inputs whose products wait for their steps */
#define FEW 4                /* sequences of a thread, below which a tile loads more than it adds */

typedef struct {
    long waiting, turn, failed;
    char apart[64 - 3 * sizeof(long)];
} Barrier;

/* What one thread does: some sequences, some panels of units, some particles. */
typedef struct {
    long first_row, last_row, first_panel, last_panel, first_particle, last_particle;
    long sharers; /* threads that share these sequences */
    Barrier *barrier;
    real *masked, *masked_x;     /* h and x times their masks, (groups, CHUNK, H or D) */
    real *x;                     /* of a chunk's steps, (CHUNK, D) */
    real *hh, *ih;               /* products, (gates, CHUNK, 2 * WIDTH), ih of some steps */
    real *packed_hh, *packed_ih; /* a particle's weights, those panels that this thread uses */
    Weight recurrent, input;     /* packed */
} Share;

static void meet(Share *share) {
    if (share->sharers == 1) return;
    Barrier *b = share->barrier;
    long turn = __atomic_load_n(&b->turn, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&b->waiting, 1, __ATOMIC_ACQ_REL) == share->sharers) {
        __atomic_store_n(&b->waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&b->turn, turn + 1, __ATOMIC_RELEASE);
        return;
    }
    for (long k = 0; __atomic_load_n(&b->turn, __ATOMIC_ACQUIRE) == turn; k++)
        if (k > 10000) sched_yield(); /* more threads than processors */
}

/* How many of a share's sequences run at time t: the first ones. */
static long running(const Layer *layer, const Share *share, long t) {
    long n = layer->active ? layer->active[t] : layer->sequences;
    return max_of(0, min_of(n, share->last_row) - share->first_row);
}

static Step step_at(const Layer *q, long k, int backward) {
    int from_end = backward ? !q->reverse : q->reverse;
    long t = from_end ? q->stop - 1 - k : q->start + k;
    return q->reverse ? (Step){t, t + 1, t} : (Step){t, t, t + 1};
}

static long num_weights(const Layer *q) {
    const long of_h = (q->recurrent.noise ? 2 : 1) * q->hidden;
    const long of_x = (q->input.noise ? 2 : 1) * q->input.depth; /* 0 backward */
    return q->gates * q->hidden * (of_h + of_x);
}

/* x (active, D) of a share's first sequences, times their masks: (groups, CHUNK, D). */
static void multiply_masks(
    const Layer *q, const Weight *w, const Share *share, const real *x, long active, real *masked
) {
    for (long m = 0; m < w->groups; m++) {
        const real *mask = w->mask + (m * q->sequences + share->first_row) * w->depth;
        real *out = masked + m * CHUNK * w->depth;
        for (long j = 0; j < active * w->depth; j++) out[j] = mask[j] * x[j];
    }
}

/* Two panels of units of every gate. */
typedef struct {
    long panel, unit;
    int vectors, count; /* the last vector's numbers */
} Pair;

static Pair pair_at(const Layer *q, const Share *share, long panel) {
    const int vectors = (int)min_of(2, share->last_panel - panel);
    const long unit = panel * WIDTH, last = unit + (vectors - 1) * WIDTH;
    return (Pair){panel, unit, vectors, (int)min_of(WIDTH, q->hidden - last)};
}

/* Products of some rows with a pair's part of a weight: (gates, CHUNK, 2 * WIDTH). */
static void multiply(
    const Layer *q, const Weight *w, Pair pair, const real *x, const real *masked, long rows,
    real *out
) {
    for (long g = 0; g < q->gates; g++) {
        const long at = (g * num_panels(q->hidden) + pair.panel) * w->depth * WIDTH;
        const real *of_gate = masked + (w->groups > 1 ? g : 0) * CHUNK * w->depth;
        Part parts[2] = {{w->groups ? of_gate : x, w->depth, w->loc + at, w->depth}};
        if (w->noise) parts[1] = (Part){x, w->depth, w->noise + at, w->depth};
        times((int)rows, pair.vectors, parts, w->noise ? 2 : 1, out + g * CHUNK * 2 * WIDTH);
    }
}

/* The same with x and the input's weight, and the bias. */
static void multiply_input(
    const Layer *q, const Share *share, long particle, Pair pair, const real *x, long rows,
    real *out
) {
    multiply(q, &share->input, pair, x, share->masked_x, rows, out);
    if (!q->bias) return;
    for (long g = 0; g < q->gates; g++)
        for (int v = 0; v < pair.vectors; v++) {
            const real *bias = q->bias + particle * q->next_bias + g * q->hidden + pair.unit;
            const vec of_units = load(bias + v * WIDTH, v < pair.vectors - 1 ? WIDTH : pair.count);
            real *place = out + (g * CHUNK * 2 + v) * WIDTH;
            for (long r = 0; r < rows; r++) *(vec *)(place + 2 * r * WIDTH) += of_units;
        }
}

static const real *input_at(const Layer *q, const Share *share, long particle, Step now) {
    const long row = now.t * q->sequences + share->first_row;
    return q->x + particle * q->next_x + row * q->input.depth;
}

/*
Inputs of some steps are multiplied at once. A chunk holds those of as many steps as it has rows
for: a panel would be loaded for few rows at each step otherwise. And if the weights are more than
stays in the cache beside them, there are some chunks: the recurrent weight is loaded at each step,
the input's only here. The products wait for their steps, (chunks, pairs, gates, CHUNK, 2 * WIDTH).
Those of one step go into its cells from the first-level cache.
*/
static long steps_of_chunk(long rows) { return max_of(1, CHUNK / max_of(rows, 1)); }

static long chunks_at_once(const Layer *q) {
    return num_weights(q) * (long)sizeof(real) > VERY_LARGE ? MOST_CHUNKS : 1;
}

static long products_of_chunk(const Layer *q, const Share *share) {
    return (share->last_panel - share->first_panel + 1) / 2 * q->gates * CHUNK * 2 * WIDTH;
}

/* The products of a chunk's steps, from step k on; where the rows of each start. */
static void multiply_chunk(
    const Layer *q, const Share *share, long particle, long k, long num_steps, real *out,
    long *starts
) {
    long rows = 0;
    for (long j = 0; j < num_steps; j++) {
        Step now = step_at(q, k + j, 0);
        const long active = running(q, share, now.t), place = rows * q->input.depth;
        const real *x = input_at(q, share, particle, now);
        memcpy(share->x + place, x, active * q->input.depth * sizeof(real));
        multiply_masks(q, &share->input, share, x, active, share->masked_x + place);
        starts[j] = out - share->ih + 2 * rows * WIDTH;
        rows += active;
    }
    for (long panel = share->first_panel; panel < share->last_panel; panel += 2) {
        multiply_input(q, share, particle, pair_at(q, share, panel), share->x, rows, out);
        out += q->gates * CHUNK * 2 * WIDTH;
    }
}

static int all_zero(const real *x, long count) {
    for (long j = 0; j < count; j++)
        if (x[j] != 0) return 0;
    return 1;
}

static void steps_forward(const Layer *q, Share *share, long particle) {
    const long hidden = q->hidden, num_steps = q->stop - q->start;
    const long step = q->particles * q->sequences * hidden, first = share->first_row;
    const long base = (particle * q->sequences + first) * hidden;
    const long num_rows = share->last_row - first, of_chunk = steps_of_chunk(num_rows);
    const long at_once = of_chunk * chunks_at_once(q);
    long starts[MOST_CHUNKS * CHUNK] = {0};
    for (long k = 0; k < num_steps; k++) {
        Step now = step_at(q, k, 0);
        const long active = running(q, share, now.t);
        const real *h = q->h + now.before * step + base, *x = input_at(q, share, particle, now);
        /* As at most starts. The product of a single step shows weights that are not finite. */
        const int at_zero = k == 0 && num_steps > 1 && all_zero(h, active * hidden);
        if (!at_zero) multiply_masks(q, &share->recurrent, share, h, active, share->masked);
        if (at_once == 1)
            multiply_masks(q, &share->input, share, x, active, share->masked_x);
        else if (k % at_once == 0)
            for (long j = 0; j < min_of(at_once, num_steps - k); j += of_chunk)
                multiply_chunk(
                    q, share, particle, k + j, min_of(of_chunk, num_steps - k - j),
                    share->ih + j / of_chunk * products_of_chunk(q, share), starts + j
                );
        const real *ih = share->ih + starts[k % at_once];
        for (long panel = share->first_panel; panel < share->last_panel; panel += 2) {
            const Pair pair = pair_at(q, share, panel);
            if (at_zero)
                memset(share->hh, 0, q->gates * CHUNK * 2 * WIDTH * sizeof(real));
            else
                multiply(q, &share->recurrent, pair, h, share->masked, active, share->hh);
            if (at_once == 1)
                multiply_input(q, share, particle, pair, x, active, share->ih);
            else if (panel > share->first_panel)
                ih += q->gates * CHUNK * 2 * WIDTH;
            for (long r = 0; r < active; r++)
                cells_forward(
                    q, share->hh + 2 * r * WIDTH, ih + 2 * r * WIDTH,
                    base + r * hidden + pair.unit, pair.unit, pair.vectors, pair.count, now, step,
                    particle
                );
        }
        for (long r = active; r < num_rows; r++) { /* ended: the state stays */
            const long unit = share->first_panel * WIDTH, state = base + r * hidden + unit;
            const long units = min_of(share->last_panel * WIDTH, hidden) - unit;
            memcpy(q->h + now.after * step + state, h + r * hidden + unit, units * sizeof(real));
            if (q->mode == LSTM && q->extra_step)
                memcpy(
                    q->extra + now.after * q->extra_step + state,
                    q->extra + now.before * q->extra_step + state, units * sizeof(real)
                );
        }
        meet(share);
    }
}

static void steps_backward(const Layer *q, Share *share, long particle) {
    const Weight *recurrent = &share->recurrent;
    const long hidden = q->hidden, width = q->gates * hidden, panels = num_panels(hidden);
    const long step = q->particles * q->sequences * hidden, first = share->first_row;
    const long base = (particle * q->sequences + first) * hidden;
    const long num_rows = share->last_row - first;
    const long parts = max_of(recurrent->groups, 1), depth = width / parts;
    for (long k = 0; k < q->stop - q->start; k++) {
        Step now = step_at(q, k, 1);
        const int active = (int)running(q, share, now.t);
        real *rows = q->rows + particle * q->next_rows;
        rows += ((now.t - q->start) * q->sequences + first) * width;
        for (long r = 0; r < active; r++) /* along memory */
            for (long panel = share->first_panel; panel < share->last_panel; panel++) {
                const long unit = panel * WIDTH;
                const int count = (int)min_of(WIDTH, hidden - unit);
                cell_backward(
                    q, rows + r * width + unit, base + r * hidden + unit, count, now, step
                );
            }
        for (long r = active; r < num_rows; r++) { /* ended: nothing from here */
            const long unit = share->first_panel * WIDTH;
            const long units = min_of(share->last_panel * WIDTH, hidden) - unit;
            for (long g = 0; g < q->gates; g++)
                memset(rows + r * width + g * hidden + unit, 0, units * sizeof(real));
            if (q->mode == GRU)
                memset(
                    q->inner + (now.t - q->start) * step + base + r * hidden + unit, 0,
                    units * sizeof(real)
                );
        }
        meet(share);
        for (long panel = share->first_panel; panel < share->last_panel; panel += 2) {
            const int vectors = (int)min_of(2, share->last_panel - panel);
            for (long m = 0; m < parts; m++) {
                Part part = {
                    rows + m * depth, width, recurrent->loc + (m * panels + panel) * depth * WIDTH,
                    depth
                };
                times(active, vectors, &part, 1, share->hh + m * CHUNK * 2 * WIDTH);
            }
            const real *of_noise = share->hh + parts * CHUNK * 2 * WIDTH;
            if (recurrent->noise) {
                Part part = {rows, width, recurrent->noise + panel * width * WIDTH, width};
                times(active, vectors, &part, 1, share->hh + parts * CHUNK * 2 * WIDTH);
            }
            for (int r = 0; r < active; r++)
                for (int v = 0; v < vectors; v++) {
                    const long unit = (panel + v) * WIDTH, place = (2 * r + v) * WIDTH;
                    const int count = (int)min_of(WIDTH, hidden - unit);
                    const long row = first + r, state = base + r * hidden + unit;
                    vec total = {0};
                    for (long m = 0; m < parts; m++) {
                        vec term = *(const vec *)(share->hh + m * CHUNK * 2 * WIDTH + place);
                        if (recurrent->groups)
                            term *= load(
                                recurrent->mask + (m * q->sequences + row) * hidden + unit, count
                            );
                        total += term;
                    }
                    if (recurrent->noise) total += *(const vec *)(of_noise + place);
                    if (q->mode == GRU) total += load(q->to_h + state, count);
                    store(q->to_h + state, total, count);
                }
        }
    }
}

/* Threads. */

/* A weight that is packed: a particle's is laid out now. */
static Weight take(
    const Layer *q, const Share *share, Weight w, long particle, int backward, real *packed
) {
    if (!w.next) return w;
    const long parts = backward ? 1 : q->gates, depth = backward ? q->gates * q->hidden : w.depth;
    const real *weight = w.loc + particle * w.next;
    for (long part = 0; part < parts; part++)
        pack(
            backward, weight + part * q->hidden * depth,
            packed + part * num_panels(q->hidden) * depth * WIDTH, share->first_panel,
            share->last_panel, q->hidden, depth
        );
    w.loc = packed;
    return w;
}

/* Some sequences after the others, so that what a step needs of them stays in the cache. */
static void run_blocks(const Layer *q, const Share *share, long particle, int backward) {
    const long rows = share->last_row - share->first_row, blocks = (rows + CHUNK - 1) / CHUNK;
    for (long b = 0; b < blocks; b++) {
        Share block = *share;
        block.first_row = share->first_row + cut(rows, blocks, b);
        block.last_row = share->first_row + cut(rows, blocks, b + 1);
        (backward ? steps_backward : steps_forward)(q, &block, particle);
    }
}

static void run_share(const Layer *q, long thread, long threads, Barrier *barriers, int backward) {
    const long panels = num_panels(q->hidden), n = q->sequences;
    const long over_particles = min_of(threads, q->particles), left = threads / over_particles;
    const long numbers = num_weights(q);
    /* A step is worth a barrier, and a tile its loads, from some size on. */
    const long most_panels = max_of(1, min_of((panels + 1) / 2, numbers * n / BARRIER));
    const long most_rows = max_of(1, n / FEW);
    long over_rows, over_panels;
    if (numbers * (long)sizeof(real) > LARGE) { /* each thread keeps its part of the weights */
        over_panels = min_of(left, most_panels);
        over_rows = min_of(left / over_panels, most_rows);
    } else {
        over_rows = min_of(left, most_rows);
        over_panels = min_of(left / over_rows, most_panels);
    }
    if (thread >= over_particles * over_rows * over_panels) return;
    const long row = thread / over_panels % over_rows, column = thread % over_panels;
    const long particle = thread / (over_rows * over_panels), pairs = (panels + 1) / 2;
    Share share = {
        .first_row = cut(n, over_rows, row),
        .last_row = cut(n, over_rows, row + 1),
        .first_panel = 2 * cut(pairs, over_panels, column),
        .last_panel = min_of(panels, 2 * cut(pairs, over_panels, column + 1)),
        .first_particle = cut(q->particles, over_particles, particle),
        .last_particle = cut(q->particles, over_particles, particle + 1),
        .sharers = over_panels,
        .barrier = barriers + thread / over_panels,
    };
    const long products = (long)(MAX_GATES + 1) * CHUNK * 2 * WIDTH; /* backward one for noise */
    const long units = q->gates * panels * WIDTH;
    void *places[] = {
        share.masked = memory(q->recurrent.groups * CHUNK * q->hidden),
        share.masked_x = memory(q->input.groups * CHUNK * q->input.depth),
        share.x = memory(CHUNK * q->input.depth),
        share.hh = memory(products),
        share.ih = memory(chunks_at_once(q) * products_of_chunk(q, &share)),
        share.packed_hh = memory(q->recurrent.next ? units * q->hidden : 0),
        share.packed_ih = memory(q->input.next ? units * q->input.depth : 0),
    };
    const int num_places = sizeof(places) / sizeof(*places);
    long *failed = &share.barrier->failed;
    for (int k = 0; k < num_places; k++)
        if (!places[k]) __atomic_store_n(failed, 1, __ATOMIC_RELEASE);
    meet(&share); /* all who share these sequences go on, or none */
    if (!__atomic_load_n(failed, __ATOMIC_ACQUIRE))
        for (long s = share.first_particle; s < share.last_particle; s++) {
            share.recurrent = take(q, &share, q->recurrent, s, backward, share.packed_hh);
            share.input = take(q, &share, q->input, s, backward, share.packed_ih);
            run_blocks(q, &share, s, backward);
        }
    for (int k = 0; k < num_places; k++) free(places[k]);
}

static int run_layer(const Layer *q, int backward) {
    const long numbers = num_weights(q);
    const long work = numbers * q->sequences * q->particles * (q->stop - q->start);
    const long groups = work < ALONE ? 1 : max_of(q->threads, 1);
    Barrier *barriers = calloc(groups, sizeof(Barrier));
    if (!barriers) return 1;
#ifdef _OPENMP
#pragma omp parallel num_threads(groups)
    run_share(q, omp_get_thread_num(), omp_get_num_threads(), barriers, backward);
#else
    run_share(q, 0, 1, barriers, backward);
#endif
    int failed = 0;
    for (long k = 0; k < groups; k++) failed |= barriers[k].failed != 0;
    free(barriers);
    return failed;
}

/* What Python calls; 0 if all went well, 1 if memory ran out. */

int vrnn_forward(const Layer *layer) { return run_layer(layer, 0); }

int vrnn_backward(const Layer *layer) { return run_layer(layer, 1); }

long vrnn_layer_size(void) { return sizeof(Layer); }
