/*
The cells' functions, to the last digits of their type, of some vectors side by side: each is a
chain of operations that wait for one another, in which a processor has time for others.
*/

#ifndef FUNCTIONS_H
#define FUNCTIONS_H

#include "vectors.h"

#define EACH(K, N) for (int K = 0; K < (N); K++)
#define MOST 6 /* vectors; arrays of a size known early are kept in registers */

/* e^x - 1 by x = n log 2 + r: 2^n (e^r - 1) + (2^n - 1), the series of e^r - 1 to full precision.
 */
INLINE void expm1_vecs(const int count, vec *x) {
    const real shift = IS_DOUBLE ? 6755399441055744.0 : 12582912.0; /* 1.5 * 2^52, 1.5 * 2^23 */
    const real high = IS_DOUBLE ? 6.93147180369123816490e-01 : 0.693359375;
    const real low = IS_DOUBLE ? 1.90821492927058770002e-10 : -2.12194440e-4;
    vec n[MOST], p[MOST];
    EACH(j, count) n[j] = x[j] * (real)1.4426950408889634 + shift;
    EACH(j, count) n[j] = n[j] - shift;
    EACH(j, count) x[j] = x[j] - n[j] * high;
    EACH(j, count) x[j] = x[j] - n[j] * low;
    EACH(j, count) p[j] = (vec){0};
    for (int k = IS_DOUBLE ? 13 : 7; k > 1; k--) {
        double factorial = 1;
        for (int j = 2; j <= k; j++) factorial *= j;
        EACH(j, count) p[j] = p[j] * x[j] + (real)(1 / factorial);
    }
    EACH(j, count) p[j] = p[j] * x[j] * x[j] + x[j];
    EACH(j, count) {
        wholes power = __builtin_convertvector(n[j], wholes);
        vec scale = (vec)((power + (IS_DOUBLE ? 1023 : 127)) << (IS_DOUBLE ? 52 : 23)); /* 2^n */
        x[j] = scale * p[j] + (scale - 1);
    }
}

INLINE void sigmoids(const int count, vec *x) {
    const real most = IS_DOUBLE ? 700 : 87;
    EACH(j, count) x[j] = at_least(at_most(-x[j], most), -most);
    expm1_vecs(count, x);
    EACH(j, count) x[j] = 1 / (2 + x[j]);
}

INLINE void tanhs(const int count, vec *x) {
    const real most = IS_DOUBLE ? 40 : 20;
    EACH(j, count) x[j] = 2 * at_least(at_most(x[j], most), -most);
    expm1_vecs(count, x);
    EACH(j, count) x[j] = x[j] / (x[j] + 2);
}

#endif
