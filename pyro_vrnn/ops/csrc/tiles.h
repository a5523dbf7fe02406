/* Matrix products, tile by tile, with weights packed in panels of one vector's width. */

#ifndef TILES_H
#define TILES_H

#include "vectors.h"

#define CHUNK (4 * MAX_ROWS) /* rows that one panel is multiplied with while it is in the cache */

static inline long num_panels(long units) { return (units + WIDTH - 1) / WIDTH; }

/* Lay out a panel of the rows of a weight (units, depth), as (depth, WIDTH). */
static void pack_rows(const real *weight, real *out, long panel, long units, long depth) {
    const long unit = panel * WIDTH, count = min_of(WIDTH, units - unit);
    const real *from = weight + unit * depth;
    for (long start = 0; start < depth; start += 16) /* a block that stays in the cache */
        for (long k = start; k < min_of(start + 16, depth); k++)
            for (long v = 0; v < WIDTH; v++)
                out[k * WIDTH + v] = v < count ? from[v * depth + k] : 0;
}

/* The same of the columns of a weight (depth, units). */
static void pack_columns(const real *weight, real *out, long panel, long units, long depth) {
    const long unit = panel * WIDTH;
    const int count = (int)min_of(WIDTH, units - unit);
    for (long k = 0; k < depth; k++)
        *(vec *)(out + k * WIDTH) = load(weight + k * units + unit, count);
}

/* Panels first .. last - 1 of one part of a weight, to their place among all of its panels. */
static void pack(
    int columns, const real *weight, real *out, long first, long last, long units, long depth
) {
    for (long panel = first; panel < last; panel++)
        (columns ? pack_columns
                 : pack_rows)(weight, out + panel * depth * WIDTH, panel, units, depth);
}

/* A tile is `rows` x (one or two vectors): a sum over parts, such as loc and noise. */
typedef struct {
    const real *x;     /* (rows, depth) */
    long stride;       /* from row to row, columns side by side; or the other way round */
    const real *panel; /* (depth, WIDTH), the next panel behind it */
    long depth;
} Part;

INLINE void tile(
    const int rows, const int vectors, const int rows_adjacent, const Part *parts, int num_parts,
    real *out /* (rows, 2 * WIDTH) */
) {
    vec sum[MAX_ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = (vec){0};
    for (int part = 0; part < num_parts; part++) {
        const long depth = parts[part].depth, stride = parts[part].stride;
        const real *x = parts[part].x;
        const vec *panel = (const vec *)parts[part].panel;
        for (long k = 0; k < depth; k++) {
            vec first = panel[k], second = vectors > 1 ? panel[depth + k] : first;
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                real factor = rows_adjacent ? x[k * stride + r] : x[r * stride + k];
                sum[r][0] += factor * first;
                if (vectors > 1) sum[r][1] += factor * second;
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) *(vec *)(out + (2 * r + v) * WIDTH) = sum[r][v];
}

#define TILE(ROWS)                                               \
    case ROWS:                                                   \
        if (vectors > 1)                                         \
            tile(ROWS, 2, rows_adjacent, parts, num_parts, out); \
        else                                                     \
            tile(ROWS, 1, rows_adjacent, parts, num_parts, out); \
        break;

/* out (rows, 2 * WIDTH), for up to CHUNK rows, in tiles of about one size. */
INLINE void product(
    const int rows_adjacent, int rows, int vectors, const Part *given, int num_parts, real *out
) {
    const int tiles = (rows + MAX_ROWS - 1) / MAX_ROWS;
    Part parts[2] = {given[0], given[num_parts - 1]};
    for (int t = 0; t < tiles; t++) {
        const int size = (int)(cut(rows, tiles, t + 1) - cut(rows, tiles, t));
        switch (size) {
            TILE(1)
            TILE(2)
            TILE(3) TILE(4) TILE(5) TILE(6)
#if MAX_ROWS > 6
                TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12)
#endif
        }
        for (int k = 0; k < num_parts; k++)
            parts[k].x += size * (rows_adjacent ? 1 : parts[k].stride);
        out += size * 2 * WIDTH;
    }
}

/* A product of rows whose numbers are side by side. */
static void times(int rows, int vectors, const Part *parts, int num_parts, real *out) {
    product(0, rows, vectors, parts, num_parts, out);
}

#endif
