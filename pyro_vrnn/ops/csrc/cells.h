/* A layer, and what its cells do with the products of a step, forward and backward. */

#ifndef CELLS_H
#define CELLS_H

#include "functions.h"
#include "tiles.h"

#define MAX_GATES 4

/* Sizes and strides count numbers, not bytes. */

typedef struct {
    long depth;        /* D */
    long groups;       /* masks of a sequence: 0, 1 or one for each gate */
    long next;         /* from a particle's weight, not packed, to the next; 0: all share it */
    const real *loc;   /* (G*H, D), packed if it is for all particles */
    const real *noise; /* likewise, packed, or null */
    const real *mask;  /* (groups, N, D) */
} Weight;

/* A layer. */

enum { RNN_TANH, RNN_RELU, LSTM, GRU };

typedef struct {
    long mode, gates, hidden, sequences, particles;
    long start, stop, reverse; /* steps, in the order of time */
    long threads;
    const long *active; /* (T,) sequences still running, or null for all */
    Weight recurrent, input;
    real *h;     /* (T+1, S, N, H) */
    real *extra; /* LSTM: c, (T+1, S, N, H); GRU: W_hn h + b_hn, (T, S, N, H) */
    long extra_step;
    real *kept; /* (G, T, S, N, H): activated gates; null if they are not to be kept */
    long kept_gate, kept_step;
    /* Forward. Of particles each, if there is a way from one to the next. */
    const real *x; /* (T, N, D) */
    long next_x;
    const real *bias; /* (G*H,), or null */
    long next_bias;
    const real *bias_n; /* GRU: (H,), or null */
    long next_bias_n;
    /* Backward. */
    real *rows;          /* gradient of the pre-activations, (S, t, N, G*H) */
    long next_rows;      /* from a particle's to the next one's */
    const real *outputs; /* gradient, (T, S, N, H), or null */
    real *inner;         /* GRU: (t, S, N, H) */
    real *to_h, *to_c;   /* gradients of the state, (S, N, H) */
} Layer;

/* Where the steps of a particle stand. */
typedef struct {
    long t, before, after; /* where the states before and after it stand */
} Step;

/*
Some vectors of units of one sequence, the last of which has `count` numbers.

hh, ih: products with h and x, (gates, CHUNK, 2 * WIDTH), the latter with their bias; state: where
these units stand in a state.
*/
INLINE void cell_forward(
    const Layer *q, const real *hh, const real *ih, long state, long unit,
    const int vectors, const int count, Step now, long step, long particle
) {
    real *h = q->h + state, *new = h + now.after * step;
    real *kept = q->kept ? q->kept + now.t * q->kept_step + state : NULL;
#define SIZE(V) ((V) == vectors - 1 ? count : WIDTH)
#define HH(K, V) (*(const vec *)(hh + ((K) * CHUNK * 2 + (V)) * WIDTH))
#define IH(K, V) (*(const vec *)(ih + ((K) * CHUNK * 2 + (V)) * WIDTH))
#define LOAD(PLACE, V) load((PLACE) + (V) * WIDTH, SIZE(V))
#define STORE(PLACE, X) EACH(v, vectors) store((PLACE) + v * WIDTH, (X)[v], SIZE(v))
    if (q->mode == LSTM) {
        real *c = q->extra + state;
        vec squashed[6], g[2], cell[2]; /* of two vectors or one */
        vec *i = squashed, *f = squashed + vectors, *o = squashed + 2 * vectors;
        EACH(v, vectors) {
            i[v] = HH(0, v) + IH(0, v);
            f[v] = HH(1, v) + IH(1, v);
            g[v] = HH(2, v) + IH(2, v);
            o[v] = HH(3, v) + IH(3, v);
        }
        sigmoids(3 * vectors, squashed);
        tanhs(vectors, g);
        EACH(v, vectors) cell[v] = f[v] * LOAD(c + now.before * q->extra_step, v) + i[v] * g[v];
        if (kept) {
            STORE(kept, i);
            STORE(kept + q->kept_gate, f);
            STORE(kept + 2 * q->kept_gate, g);
            STORE(kept + 3 * q->kept_gate, o);
        }
        STORE(c + now.after * q->extra_step, cell);
        tanhs(vectors, cell);
        EACH(v, vectors) cell[v] *= o[v];
        STORE(new, cell);
    } else if (q->mode == GRU) {
        vec squashed[4], inner[2], n[2];
        vec *r = squashed, *z = squashed + vectors;
        const real *bias = q->bias_n ? q->bias_n + particle * q->next_bias_n + unit : NULL;
        EACH(v, vectors) {
            r[v] = HH(0, v) + IH(0, v);
            z[v] = HH(1, v) + IH(1, v);
            inner[v] = HH(2, v);
            if (bias) inner[v] += LOAD(bias, v);
        }
        sigmoids(2 * vectors, squashed);
        EACH(v, vectors) n[v] = IH(2, v) + r[v] * inner[v];
        tanhs(vectors, n);
        if (kept) {
            STORE(kept, r);
            STORE(kept + q->kept_gate, z);
            STORE(kept + 2 * q->kept_gate, n);
        }
        STORE(q->extra + now.t * q->extra_step + state, inner);
        EACH(v, vectors) n[v] += z[v] * (LOAD(h + now.before * step, v) - n[v]);
        STORE(new, n);
    } else {
        vec x[2];
        EACH(v, vectors) x[v] = HH(0, v) + IH(0, v);
        if (q->mode == RNN_RELU)
            EACH(v, vectors) x[v] = at_least(x[v], 0);
        else
            tanhs(vectors, x);
        STORE(new, x);
    }
#undef SIZE
#undef HH
#undef IH
#undef LOAD
#undef STORE
}

/* The same, where the compiler sees the sizes: those of all vectors but the last of a row. */
static void cells_forward(
    const Layer *q, const real *hh, const real *ih, long state, long unit,
    int vectors, int count, Step now, long step, long particle
) {
    if (vectors == 2 && count == WIDTH)
        cell_forward(q, hh, ih, state, unit, 2, WIDTH, now, step, particle);
    else if (vectors == 2)
        cell_forward(q, hh, ih, state, unit, 2, count, now, step, particle);
    else
        cell_forward(q, hh, ih, state, unit, 1, count, now, step, particle);
}

INLINE void cell_backward(
    const Layer *q, real *rows, long state, int count, Step now, long step
) {
    const long hidden = q->hidden;
    const real *kept = q->kept ? q->kept + now.t * q->kept_step + state : NULL;
    vec to_h = load(q->to_h + state, count);
    if (q->outputs) to_h += load(q->outputs + now.t * step + state, count);
#define KEPT(K) load(kept + (K) * q->kept_gate, count)
#define PUT(K, X) store(rows + (K) * hidden, X, count)
    if (q->mode == LSTM) {
        const real *c = q->extra + state;
        vec i = KEPT(0), f = KEPT(1), g = KEPT(2), o = KEPT(3);
        vec squashed = load(c + now.after * q->extra_step, count);
        tanhs(1, &squashed);
        vec to_c = load(q->to_c + state, count) + to_h * o * (1 - squashed * squashed);
        PUT(0, to_c * g * i * (1 - i));
        PUT(1, to_c * load(c + now.before * q->extra_step, count) * f * (1 - f));
        PUT(2, to_c * i * (1 - g * g));
        PUT(3, to_h * squashed * o * (1 - o));
        store(q->to_c + state, to_c * f, count);
    } else if (q->mode == GRU) {
        vec r = KEPT(0), z = KEPT(1), n = KEPT(2);
        vec inner = to_h * (1 - z) * (1 - n * n);
        store(q->inner + (now.t - q->start) * step + state, inner, count);
        PUT(0, inner * load(q->extra + now.t * q->extra_step + state, count) * r * (1 - r));
        PUT(1, to_h * (load(q->h + now.before * step + state, count) - n) * z * (1 - z));
        PUT(2, inner * r);
        store(q->to_h + state, to_h * z, count);
    } else {
        vec out = load(q->h + now.after * step + state, count);
        vec one = 1 + (vec){0};
        PUT(0, to_h * (q->mode == RNN_RELU ? choose(out > 0, one, 0 * one) : 1 - out * out));
    }
#undef KEPT
#undef PUT
}

#endif
